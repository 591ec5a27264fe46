"""Token analysis: the axis of each tensor that counts the tokens of a masked input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.token_rules import RULES, Place
from onnxptq.graph.model import Model


@dataclass(frozen=True)
class Padding:
    """The mask input that marks valid tokens, and the token axis of a tensor (from the end)."""

    mask: str
    axis: int


def token_axes(model: Model, masks: Mapping[str, str]) -> dict[str, Padding]:
    """Padding of every tensor with a token axis.

    ``masks`` maps mask inputs to token inputs ('' for the likeliest one).
    """
    inputs = {tensor.name: tensor for tensor in model.graph.inputs}
    found: dict[str, Padding] = {}
    for mask, token in masks.items():
        token = token or _likeliest(inputs, mask)
        if mask not in inputs or token not in inputs:
            continue
        places = {token: Place(1 if len(inputs[token].shape) > 1 else 0)}
        for node in model.graph.nodes:
            place = _through(node, places)
            if place is not None:
                places |= {output.name: place for output in node.outputs}
        tensors = model.graph.tensors()
        for name, place in places.items():
            if tensors[name].shape is not None:
                found.setdefault(name, Padding(mask, place.axis - len(tensors[name].shape)))
    return found


def _likeliest(inputs: Mapping[str, gs.Tensor], mask: str) -> str:
    """The first other input with the mask's shape."""
    shape = inputs[mask].shape if mask in inputs else None
    return next((name for name, tensor in inputs.items() if name != mask and tensor.shape == shape), "")


def _through(node: gs.Node, places: Mapping[str, Place]) -> Place | None:
    """The token axes of a node's outputs."""
    held = [places.get(tensor.name) for tensor in node.inputs]
    if not any(held) or any(
        t.shape is None for t in (*node.outputs, *(i for i, p in zip(node.inputs, held, strict=True) if p))
    ):
        return None
    rule = RULES.get(node.op)
    return rule(node, held) if rule is not None else None
