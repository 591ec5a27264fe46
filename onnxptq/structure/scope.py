"""What the default scope leaves in float: the first convolution, the output layer, and the head of a promptable
decoder."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import leading_to, moves, reached
from onnxptq.graph.edit import producer
from onnxptq.graph.model import Model
from onnxptq.structure.types import Attention, Conv, Linear

BARRIERS = frozenset(
    {
        "Shape",
        "Size",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "ReduceMean",
        "Sqrt",
        "Sub",
    }
)
"""Ops behind which a layer makes features, not predictions: norms, whole or spelled out."""


def in_float(
    model: Model, lines: Mapping[str, Linear], convs: Mapping[str, Conv], found: Mapping[str, Attention]
) -> frozenset[str]:
    """Names of linears and convolutions that the default scope does not quantize."""
    layers = {n: (x.input, x.output) for n, x in lines.items()} | {n: (x.input, x.output) for n, x in convs.items()}
    order = [node.name for node in model.graph.nodes if node.name in layers]
    out = {name for name in order if _is_first(model, name, layers, convs)}
    out |= _last(model, layers)
    if any(a.token_to_image for a in found.values()):
        out |= _promptable(model, order, layers, found)
    if len(out) == len(order):
        # A model of one or two layers would have nothing left.
        return frozenset()
    return frozenset(out)


def _is_first(model: Model, name: str, layers: Mapping[str, tuple[str, str]], convs: Mapping[str, Conv]) -> bool:
    """A convolution on an input of the graph with no layer before it, or a linear that reads moved pixels (a patch
    embedding)."""
    ancestors = leading_to(model, [layers[name][0]])
    if any(output in ancestors for _, output in layers.values()):
        return False
    if name in convs:
        return any(t.name in ancestors for t in model.graph.inputs)
    tensor = model.graph.tensors()[layers[name][0]]
    while (node := producer(tensor)) is not None and moves(node):
        tensor = node.inputs[0]
    return any(tensor is t for t in model.graph.inputs) and tensor.shape is not None and len(tensor.shape) == 4


def _last(model: Model, layers: Mapping[str, tuple[str, str]]) -> set[str]:
    """Layers whose result reaches an output of the graph without another layer, a norm, or the sum of a skip
    connection.

    So the head of a classifier or segmenter is one, the last layer of a feature encoder (neck of Segment Anything's
    encoder, last block of BERT) is not.
    """
    by_output = {output: name for name, (_, output) in layers.items()}
    found: set[str] = set()
    stack: list[gs.Tensor] = list(model.graph.outputs)
    seen: set[str] = set()
    while stack:
        tensor = stack.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.name in by_output:
            found.add(by_output[tensor.name])
            continue
        node = producer(tensor)
        if node is not None and node.op not in BARRIERS and not _skips(node):
            stack += list(node.inputs)
    return found


def _skips(node: gs.Node) -> bool:
    """Whether a sum has an operand that something else reads too."""
    return node.op in ("Add", "Sum") and any(len(t.outputs) > 1 for t in node.inputs if not isinstance(t, gs.Constant))


def _promptable(
    model: Model, order: list[str], layers: Mapping[str, tuple[str, str]], found: Mapping[str, Attention]
) -> set[str]:
    """Prompt encoder and heads of Segment Anything's decoder.

    Layers with no attention before them that feed none directly; and layers with none behind them, but for an
    attention's own output projection and what ends in the sum of a skip connection (the last block's MLP).
    """
    behind = reached(model, {a.output: 1 for a in found.values()})
    before = leading_to(model, [a.probabilities for a in found.values()])
    own = {s.linear for a in found.values() for s in (a.q_source, a.k_source, a.v_source) if s is not None}
    own |= {a.o_linear for a in found.values() if a.o_linear is not None}
    inside = leading_to(model, [node.outputs[0].name for node in model.graph.nodes if _skips(node)])
    early = {n for n in order if layers[n][1] not in behind}
    late = {n for n in order if layers[n][1] not in before and layers[n][1] not in inside}
    return (early | late) - own
