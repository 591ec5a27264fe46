"""Patterns: what to look for, why not, and what to write instead."""

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
    """Why a node that starts like a pattern is none."""


class Pattern(ABC, Generic[M]):
    """One exporter dialect. ``check`` raises Miss with the reason, or returns what ``rewrite`` needs."""

    name: ClassVar[str]
    anchors: ClassVar[frozenset[str]]
    """Ops at which the pattern is looked for."""
    repeats: ClassVar[bool] = False
    """Whether one node may match several times (the anchor survives the rewriting)."""

    @abstractmethod
    def check(self, node: gs.Node, model: Model) -> M:
        """The match at ``node``; raises Miss."""

    @abstractmethod
    def rewrite(self, node: gs.Node, match: M, model: Model) -> None:
        """Write the canonical form; dead nodes are swept afterwards."""


def apply(model: Model, pattern: Pattern[M]) -> int:
    """Rewrite every match in graph order; the number of them."""
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
    """The attention around a Softmax, or Miss."""
    found = scores(softmax, varying(model))
    if found is None:
        raise Miss("no attention")
    return found
