"""Value flow in a graph: ops that only move elements, dependence on inputs, and order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_graphsurgeon as gs

from onnxptq.graph.model import Model, scalar

MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that move elements of their first input (all inputs of Concat) without changing them."""


def data_inputs(node: gs.Node) -> list[gs.Tensor]:
    """The inputs of a moving op whose elements are moved."""
    return list(node.inputs) if node.op == "Concat" else list(node.inputs[:1])


def standard(node: gs.Node) -> bool:
    """Whether the node is of the standard operator set."""
    return node.domain in ("", None, "ai.onnx")


def moves(node: gs.Node) -> bool:
    """Whether the node only moves elements."""
    return node.op in MOVES and standard(node)


def varying(model: Model) -> set[str]:
    """Names of tensors that depend on the values (not only the shapes) of the graph's inputs."""
    found = {t.name for t in model.graph.inputs}
    for node in model.graph.nodes:
        if node.op not in ("Shape", "Size") and any(t.name in found for t in node.inputs):
            found |= {t.name for t in node.outputs}
    return found


def reached(model: Model, seeds: Mapping[str, int]) -> dict[str, int]:
    """For each tensor, the bitwise or of the marks of all seeds it depends on. ``seeds`` are tensor names."""
    marks = dict(seeds)
    for node in model.graph.nodes:
        if node.op in ("Shape", "Size"):
            continue
        mark = 0
        for tensor in node.inputs:
            mark |= marks.get(tensor.name, 0)
        if mark:
            for tensor in node.outputs:
                marks[tensor.name] = marks.get(tensor.name, 0) | mark
    return marks


def leading_to(model: Model, targets: Iterable[str]) -> set[str]:
    """Names of tensors on which any of the target tensors depends (targets included)."""
    found = set(targets)
    for node in reversed(model.graph.nodes):
        if node.op not in ("Shape", "Size") and any(t.name in found for t in node.outputs):
            found |= {t.name for t in node.inputs if t.name}
    return found


def scaling(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """(x, factor) of a Mul or Div of x by one number."""
    if node.op == "Mul" and standard(node):
        for x, held in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            factor = scalar(held)
            if factor is not None and scalar(x) is None:
                return x, factor
    if node.op == "Div" and standard(node):
        divisor = scalar(node.inputs[1])
        if divisor and scalar(node.inputs[0]) is None:
            return node.inputs[0], 1.0 / divisor
    return None


def swaps_last(node: gs.Node) -> bool:
    """Whether a Transpose swaps the last two axes and nothing else."""
    perm = list(node.attrs.get("perm") or [])
    rank = len(perm)
    return node.op == "Transpose" and rank >= 2 and perm == [*range(rank - 2), rank - 1, rank - 2]
