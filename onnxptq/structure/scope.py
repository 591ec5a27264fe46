"""Layers that the default scope leaves in float: first convolution, output layer, head of a promptable decoder."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import leading_to, moves, reached
from onnxptq.graph.dataflow.trace import Tracer
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
"""Ops after which a layer gives features, not predictions: norms, fused or decomposed."""
PICTURE = 4
"""Maximum number of channels of a picture."""
FIRST, LAST, HEAD = "first layer", "output layer", "prompt encoder or head of a promptable decoder"


def in_float(
    model: Model,
    lines: Mapping[str, Linear],
    convs: Mapping[str, Conv],
    found: Mapping[str, Attention],
    tracer: Tracer,
) -> dict[str, str]:
    """Linears and convolutions that the default scope leaves in float, and why."""
    layers = {n: (x.input, x.output) for n, x in lines.items()} | {n: (x.input, x.output) for n, x in convs.items()}
    order = [node.name for node in model.graph.nodes if node.name in layers]
    out = {name: FIRST for name in order if _is_first(model, name, layers, convs)}
    out |= {name: LAST for name in order if name in _last(model, layers, convs)}
    if _is_promptable(model, found, tracer):
        head = _promptable(model, order, layers, convs, found)
        out |= {name: HEAD for name in order if name in head and name not in out}
    # A model of one or two layers would keep no layer to quantize.
    return out if len(out) < len(order) else {}


def _is_first(model: Model, name: str, layers: Mapping[str, tuple[str, str]], convs: Mapping[str, Conv]) -> bool:
    """A convolution on a picture with no layer before it, or a linear that reads moved pixels (a patch embedding)."""
    ancestors = leading_to(model, [layers[name][0]])
    if any(output in ancestors for _, output in layers.values()):
        return False
    if name in convs:
        return any(t.name in ancestors and _is_picture(t) for t in model.graph.inputs)
    tensor = model.graph.tensors()[layers[name][0]]
    while (node := producer(tensor)) is not None and moves(node):
        tensor = node.inputs[0]
    return any(tensor is t for t in model.graph.inputs) and tensor.shape is not None and len(tensor.shape) == 4


def _is_picture(tensor: gs.Tensor) -> bool:
    """Whether an input may hold a picture: few channels, first or last, as far as its shape is known."""
    shape = tensor.shape
    return shape is None or len(shape) != 4 or any(not isinstance(n, int) or n <= PICTURE for n in (shape[1], shape[3]))


def _last(model: Model, layers: Mapping[str, tuple[str, str]], convs: Mapping[str, Conv]) -> set[str]:
    """Layers with a path to an output free of other layers, norms, products of activations and skip sums.

    So the head of a classifier or segmenter is one. These are none: the last layer of a feature encoder (neck of
    Segment Anything's encoder, last block of BERT), both operands of a product that makes masks, and a convolution with
    as many output as input channels (a level of a feature pyramid).
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
            name = by_output[tensor.name]
            if name not in convs or not _keeps_width(model, convs[name]):
                found.add(name)
            continue
        node = producer(tensor)
        if node is not None and node.op not in BARRIERS and node.op != "MatMul" and not _skips(node):
            stack += list(node.inputs)
    return found


def _keeps_width(model: Model, conv: Conv) -> bool:
    """Whether a convolution has at least as many output as input channels, and more than a picture has."""
    weight = model.tensor(conv.weight)
    group = int(next(n.attrs.get("group", 1) for n in weight.outputs if n.name == conv.name))
    first, second = int(weight.shape[0]), int(weight.shape[1]) * group
    read, given = (first, second) if conv.transpose else (second, first)
    return given >= read > PICTURE


def _skips(node: gs.Node) -> bool:
    """Whether an operand of a sum has another reader."""
    return node.op in ("Add", "Sum") and any(len(t.outputs) > 1 for t in node.inputs if not isinstance(t, gs.Constant))


def _is_promptable(model: Model, found: Mapping[str, Attention], tracer: Tracer) -> bool:
    """Whether tokens attend to the image and the image attends to as many tokens, as in Segment Anything's decoder.

    In a detector's decoder (DETR) queries attend to the image, but the image never attends to them.
    """

    def sizes(one: Attention) -> tuple[int, int] | None:
        shapes = [tracer.shape(model.tensor(name)) for name in (one.q, one.k)]
        return None if None in shapes else (shapes[0][-2], shapes[1][-2])  # type: ignore[index]

    both = {sizes(one) for one in found.values()} - {None}
    looking = (sizes(one) for one in found.values() if one.token_to_image)
    return any(pair is not None and pair[::-1] in both for pair in looking)


def _promptable(
    model: Model,
    order: list[str],
    layers: Mapping[str, tuple[str, str]],
    convs: Mapping[str, Conv],
    found: Mapping[str, Attention],
) -> set[str]:
    """Prompt encoder and heads of Segment Anything's decoder.

    Prompt encoder: layers before the first attention that lead to one but feed none directly. Heads: linears and
    transposed convolutions with no such layer after them, except an attention's output projection and a layer whose
    result ends in a skip sum (the last block's MLP). Other convolutions (SAM-HQ adds some) give features.
    """
    behind = reached(model, {a.output: 1 for a in found.values()})
    before = leading_to(model, [a.probabilities for a in found.values()])
    own = {s.linear for a in found.values() for s in (a.q_source, a.k_source, a.v_source) if s is not None}
    own |= {a.o_linear for a in found.values() if a.o_linear is not None}
    inside = leading_to(model, [node.outputs[0].name for node in model.graph.nodes if _skips(node)])
    early = {n for n in order if layers[n][1] not in behind and layers[n][1] in before}
    late = {
        n
        for n in order
        if layers[n][1] in behind
        and layers[n][1] not in before
        and layers[n][1] not in inside
        and (n not in convs or convs[n].transpose)
    }
    return (early | late) - own
