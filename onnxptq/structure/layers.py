"""Linears, convolutions and norms of a canonical graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.trace import Tracer, columns, is_padded
from onnxptq.graph.edit import only_reader
from onnxptq.graph.model import Model
from onnxptq.ops.qconv import ranges
from onnxptq.structure.types import Conv, Linear, Norm
from onnxptq.structure.window import Window


def linears(model: Model) -> dict[str, Linear]:
    """MatMul nodes with a constant [K, N] right operand, by name."""
    found: dict[str, Linear] = {}
    for node in model.graph.nodes:
        weight = node.inputs[1] if node.op == "MatMul" else None
        if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or isinstance(node.inputs[0], gs.Constant):
            continue
        product = node.outputs[0]
        following = only_reader(product, model)
        bias: gs.Tensor | None = None
        if following is not None and following.op == "Add" and following.inputs[0] is product:
            other = following.inputs[1]
            bias = other if isinstance(other, gs.Constant) and tuple(other.shape) == (weight.shape[1],) else None
        end = following if bias is not None and following is not None else node
        found[node.name] = Linear(
            node.name,
            node.inputs[0].name,
            weight.name,
            bias.name if bias is not None else None,
            end.name if bias is not None else None,
            end.outputs[0].name,
            int(weight.shape[0]),
            int(weight.shape[1]),
        )
    return found


def convs(model: Model) -> dict[str, Conv]:
    """Conv and ConvTranspose nodes with constant weight, by name."""
    found: dict[str, Conv] = {}
    for node in model.graph.nodes:
        if node.op in ("Conv", "ConvTranspose") and isinstance(node.inputs[1], gs.Constant):
            bias = node.inputs[2].name if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant) else None
            found[node.name] = Conv(
                node.name,
                node.inputs[0].name,
                node.inputs[1].name,
                bias,
                node.outputs[0].name,
                node.op == "ConvTranspose",
                _ranges(node),
                _window(node),
            )
    return found


def _window(node: gs.Node) -> Window | None:
    shape = tuple(int(n) for n in node.inputs[1].shape[2:])
    rank, attrs = len(shape), node.attrs
    if node.op != "Conv" or int(attrs.get("group", 1)) != 1 or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    defaults = (("strides", [1] * rank), ("pads", [0] * 2 * rank), ("dilations", [1] * rank))
    return Window(shape, *(tuple(attrs.get(name, default)) for name, default in defaults))


def _ranges(node: gs.Node) -> str:
    shape = [int(n) for n in node.inputs[1].shape]
    spatial = len(shape) - 2
    if node.op != "Conv" or spatial not in (1, 2) or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return ""
    strides, pads = node.attrs.get("strides", [1] * spatial), node.attrs.get("pads", [0] * 2 * spatial)
    return ranges(shape, strides, pads, int(node.attrs.get("group", 1)))


def norms(model: Model, lines: dict[str, Linear], tracer: Tracer) -> dict[str, Norm]:
    """LayerNormalization nodes over the last axis, by name, with the linears that read their channels in order."""
    found: dict[str, Norm] = {}
    for node in model.graph.nodes:
        if node.op != "LayerNormalization":
            continue
        output = node.outputs[0]
        readers: list[str] = []
        exclusive, padded = True, False
        for reader in tracer.readers(output):
            line = lines.get(reader.node.name) if reader.node is not None else None
            numbers = (
                tracer.channels(output, reader.tensor)
                if line is not None and line.input == reader.tensor.name
                else None
            )
            places = columns(numbers) if numbers is not None else None
            if line is None or numbers is None or places is None or places.tolist() != list(range(line.inputs)):
                exclusive = False
                continue
            readers.append(line.name)
            padded |= is_padded(numbers)
        bias = node.inputs[2].name if len(node.inputs) > 2 and node.inputs[2].name else None
        found[node.name] = Norm(
            node.name,
            node.inputs[0].name,
            output.name,
            node.inputs[1].name,
            bias,
            tuple(sorted(readers)),
            exclusive and bool(readers),
            padded,
        )
    return found
