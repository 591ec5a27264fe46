"""Format ``native``: ops of our own domain with function bodies, so that the file runs in any onnxruntime."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from onnxptq.graph.model import Model
from onnxptq.lower import Constants
from onnxptq.lower.attention import lower_attention
from onnxptq.lower.edges import code_edge, scheme_attributes, scheme_inputs
from onnxptq.lower.overloads import require_overloads
from onnxptq.lower.weights import store
from onnxptq.lower.writer import Lowered, Writer
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Conv, Linear, Role, Structure

LINEAR_ROLES = (Role.LINEAR_INPUT, Role.GELU)
CONV_ROLES = (Role.CONV_INPUT, Role.GELU)
EPILOGUES = {"Gelu": "gelu", "Relu": "relu"}


def lower(model: Model, structure: Structure, plan: Plan, *, constants: Constants = "fp16") -> Lowered:
    """Fused ops where the structure allows, quantized edges around float ops elsewhere."""
    lowered = with_ops(model, structure, plan, constants=constants)
    require_overloads(lowered.proto)
    return lowered


def with_ops(
    model: Model,
    structure: Structure,
    plan: Plan,
    *,
    constants: Constants = "fp16",
    in_floats: frozenset[str] = frozenset(),
) -> Lowered:
    """The model with our ops and their bodies; ``in_floats`` names ops whose bodies multiply in floats."""
    writer = Writer(model.copy(), structure, plan, in_floats=in_floats)
    for attention in structure.attentions.values():
        lower_attention(writer, attention)
    for name in structure.matmuls:
        _matmul(writer, name)
    for linear in structure.linears.values():
        _linear(writer, linear)
    for conv in structure.convs.values():
        _conv(writer, conv)
    return writer.finish(constants)


def _epilogue(output: gs.Tensor) -> tuple[str, gs.Tensor]:
    """The activation function that alone reads the output: it is fused."""
    if len(output.outputs) == 1:
        reader = output.outputs[0]
        if reader.op in EPILOGUES and reader.attrs.get("approximate", "none") == "none":
            return EPILOGUES[reader.op], reader.outputs[0]
    return "none", output


def _linear(writer: Writer, linear: Linear) -> None:
    weight, x = writer.choice(linear.name, Role.WEIGHT), writer.choice(linear.name, *LINEAR_ROLES)
    if weight is None:
        if x is not None:
            code_edge(writer, linear.input, linear.name, x[1], "input")
        return
    held = store(writer, linear.weight, weight[1], linear.outputs)
    bias = writer.tensors[linear.bias] if linear.bias is not None else None
    output = writer.tensors[linear.output]
    epilogue, result = _epilogue(output) if output not in writer.model.graph.outputs else ("none", output)
    writer.take_over(result)
    attributes: dict[str, Any] = {"x_bits": 0, "x_scheme": "uniform"}
    parameters: list[gs.Tensor | None] = []
    if x is not None:
        attributes = {"x_bits": x[1].bits, "x_scheme": x[1].scheme, **scheme_attributes(x[1], "x_")}
        parameters = scheme_inputs(writer, linear.name, x[1])
    writer.call(
        "QLinear",
        [writer.nodes[linear.name].inputs[0], held.codes, held.scale, held.zero, bias, *parameters],
        [result],
        name=f"{linear.name}_q",
        w_bits=held.bits,
        epilogue=epilogue,
        K=linear.inputs,
        N=linear.outputs,
        **attributes,
    )


def _conv(writer: Writer, conv: Conv) -> None:
    node = writer.nodes[conv.name]
    weight, x = writer.choice(conv.name, Role.WEIGHT), writer.choice(conv.name, *CONV_ROLES)
    spatial = len(writer.weight(conv.weight).shape) - 2
    fused = (
        weight is not None
        and not conv.transpose
        and spatial in (1, 2)
        and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    )
    if not fused or (x is not None and not _static(x[1])):
        if x is not None:
            code_edge(writer, conv.input, conv.name, x[1], "input")
        if weight is not None:
            _coded_weight(writer, conv, weight[1], node)
        return
    assert weight is not None
    shape = writer.weight(conv.weight).shape
    held = store(writer, conv.weight, weight[1], shape[0])
    bias = writer.tensors[conv.bias] if conv.bias is not None else None
    output = writer.tensors[conv.output]
    epilogue, result = _epilogue(output) if output not in writer.model.graph.outputs else ("none", output)
    writer.take_over(result)
    parameters = scheme_inputs(writer, conv.name, x[1]) if x is not None else []
    writer.call(
        "QConv",
        [node.inputs[0], held.codes, held.scale, held.zero, bias, *parameters],
        [result],
        name=f"{conv.name}_q",
        x_bits=x[1].bits if x is not None else 0,
        x_scheme=x[1].scheme if x is not None else "uniform",
        w_bits=held.bits,
        epilogue=epilogue,
        shape=[int(n) for n in shape],
        kernel_shape=[int(n) for n in shape[2:]],
        strides=[int(n) for n in node.attrs.get("strides", [1] * spatial)],
        pads=[int(n) for n in node.attrs.get("pads", [0] * 2 * spatial)],
        dilations=[int(n) for n in node.attrs.get("dilations", [1] * spatial)],
        group=int(node.attrs.get("group", 1)),
        **(scheme_attributes(x[1], "x_") if x is not None else {}),
    )


def _static(choice: Choice) -> bool:
    """Whether a fused convolution supports its input's choice: one scale for all channels, or run-time ranges."""
    return choice.scheme in ("table", "token") or (
        isinstance(choice.params, UniformParams) and choice.params.scale.size == 1
    )


def _coded_weight(writer: Writer, conv: Conv, choice: Choice, node: gs.Node) -> None:
    """A float op with a quantized weight."""
    weight = writer.weight(conv.weight)
    axis = 1 if conv.transpose else 0
    held = store(writer, conv.weight, choice, weight.shape[axis])
    decoded = writer.variable(f"{conv.weight}_decoded", writer.tensors[conv.weight])
    writer.call(
        "DequantizeWeight",
        [held.codes, held.scale, held.zero],
        [decoded],
        name=f"{conv.name}_weight",
        bits=held.bits,
        axis=axis,
        shape=[int(n) for n in weight.shape],
    )
    node.inputs[1] = decoded


def _matmul(writer: Writer, name: str) -> None:
    """A product of two activations outside attentions."""
    for tensor in dict.fromkeys(read.name for read in writer.nodes[name].inputs):
        found = writer.matmul_choice(name, tensor)
        if found is not None:
            code_edge(writer, tensor, name, found[1], str(Role.MATMUL_INPUT))
