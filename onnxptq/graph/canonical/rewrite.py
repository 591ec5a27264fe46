"""Rewriting: patterns that match nodes, give a reason for a mismatch, and write the replacement."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import onnx_graphsurgeon as gs

from onnxptq.graph.attention import Scores, scores
from onnxptq.graph.dataflow.flow import varying
from onnxptq.graph.model import Model

log = logging.getLogger(__name__)
M = TypeVar("M")


class Miss(Exception):
    """The reason why a node does not match a pattern."""


class Pattern(ABC, Generic[M]):
    """One exporter's variant. ``check`` raises Miss with the reason, or returns the match for ``rewrite``."""

    name: ClassVar[str]
    anchors: ClassVar[frozenset[str]]
    """Ops that a match may start from."""
    repeats: ClassVar[bool] = False
    """Whether one node may match several times (it survives the rewriting)."""

    @abstractmethod
    def check(self, node: gs.Node, model: Model) -> M:
        """The match at ``node``; raises Miss."""

    @abstractmethod
    def rewrite(self, node: gs.Node, match: M, model: Model) -> None:
        """Write the canonical form; dead nodes are removed afterwards."""


def apply(model: Model, pattern: Pattern[M]) -> int:
    """Rewrite every match in graph order; return the number of matches."""
    count = 0
    for node in list(model.graph.nodes):
        while node.op in pattern.anchors and node.outputs and node.domain in ("", None, "ai.onnx"):
            try:
                match = pattern.check(node, model)
            except Miss as reason:
                log.debug("%s: not %s: %s", node.name, pattern.name, reason)
                break
            pattern.rewrite(node, match, model)
            count += 1
            if not pattern.repeats:
                break
    return count


def need(condition: object, reason: str) -> None:
    """Raise Miss with the reason unless the condition holds."""
    if not condition:
        raise Miss(reason)


def attention_of(softmax: gs.Node, model: Model) -> Scores:
    """The attention around a Softmax; Miss if there is none."""
    found = scores(softmax, varying(model))
    if found is None:
        raise Miss("no attention")
    return found
