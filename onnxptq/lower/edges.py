"""Quantized edges: the nodes between a float op and an activation that it reads quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.calibration.edges import Edge, Edged
from onnxptq.graph.model import Model
from onnxptq.lower.writer import Writer
from onnxptq.ops import schemes, specs
from onnxptq.ops.uniform import SMALLEST, UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Structure

PLACES: Mapping[str, tuple[int, str]] = {"pixel": (0, "column"), "channel": (0, "row"), "sample": (1, "row")}
"""Run-time ranges of images as [B, ., places]: the second size (0: C), and the unit of each range."""


def scheme_inputs(writer: Writer, base: str, choice: Choice) -> list[gs.Tensor | None]:
    """The inputs p0.. that hold a choice's parameters, in the order of its scheme."""
    if choice.params is None:
        return []
    return [writer.constant(f"{base}_{name}", array) for name, array in choice.params.inputs().items()]


def scheme_attributes(choice: Choice, prefix: str = "") -> dict[str, Any]:
    """The attributes of a choice's scheme besides its width; fused ops prefix the names with ``x_``."""
    return (
        {prefix + name: value for name, value in choice.params.attributes().items()}
        if choice.params is not None
        else {}
    )


def coded_edge(writer: Writer, tensor: gs.Tensor, choice: Choice, *, name: str) -> gs.Tensor:
    """Quantize and dequantize a tensor by the op pair of its scheme."""
    like = tensor
    if choice.scheme == "row":
        choice = Choice(scheme="token", calibrator=choice.calibrator, bits=choice.bits)
    if choice.scheme == "token":
        scale, zero = writer.variable(f"{name}_scale"), writer.variable(f"{name}_zero", dtype=np.uint8)
        axis = -2 if choice.granularity == "column" else -1
        writer.call("RowRange", [tensor], [scale, zero], name=f"{name}_range", bits=choice.bits, axis=axis)
        parameters: list[gs.Tensor | None] = [scale, zero]
    else:
        parameters = scheme_inputs(writer, name, choice)
    scheme, attributes = schemes()["uniform" if choice.scheme == "token" else choice.scheme], scheme_attributes(choice)
    kind = onnx.helper.tensor_dtype_to_np_dtype(scheme.code_type(choice.bits, attributes))
    codes, decoded = writer.variable(f"{name}_codes", like, kind), writer.variable(f"{name}_decoded", like)
    for op, source, result in (("Quantize", tensor, codes), ("Dequantize", codes, decoded)):
        writer.call(
            f"{scheme.ops}{op}Linear",
            [source, *parameters],
            [result],
            name=f"{name}_{op.lower()}",
            bits=choice.bits,
            **attributes,
        )
    return decoded


def normalised_edge(
    writer: Writer, tensor: gs.Tensor, coded: Callable[[gs.Tensor], gs.Tensor], *, name: str
) -> gs.Tensor:
    """A softmax relative to each row's maximum: ``coded`` divided by the sum of the row."""
    last, tiny = (
        writer.constant(f"{name}_axis", np.array([-1])),
        writer.constant(f"{name}_tiny", np.array(SMALLEST, np.float32)),
    )

    def divided(by: str, source: gs.Tensor, stage: str) -> gs.Tensor:
        found, raised, result = (writer.variable(f"{name}_{stage}_{part}") for part in ("found", "raised", "result"))
        result.shape = tensor.shape
        writer.node(by, [source, last], [found], name=f"{name}_{stage}", keepdims=1)
        writer.node("Max", [found, tiny], [raised], name=f"{name}_{stage}_max")
        writer.node("Div", [source, raised], [result], name=f"{name}_{stage}_div")
        return result

    return divided("ReduceSum", coded(divided("ReduceMax", tensor, "top")), "sum")


def on_edge(writer: Writer, tensor_name: str, consumer: str, make: Callable[[gs.Tensor], gs.Tensor]) -> None:
    """Put the nodes that ``make`` creates for a tensor on the edge to its consumer; the float op stays."""
    tensor = writer.tensors[tensor_name]
    reads = writer.reads(tensor, consumer)
    assert reads, f"{consumer} does not read {tensor_name}"
    made = make(tensor)
    for node, index in reads:
        node.inputs[index] = made


def coder(writer: Writer, choice: Choice, *, name: str) -> Callable[[gs.Tensor], gs.Tensor]:
    """A function that quantizes and dequantizes a tensor by a choice."""

    def coded(tensor: gs.Tensor) -> gs.Tensor:
        by_place = choice.scheme == "token" and choice.granularity in PLACES
        edge = heads_apart if _heads_in_batch(tensor, choice) else places_flat if by_place else coded_edge
        return edge(writer, tensor, choice, name=name)

    return partial(normalised_edge, writer, coded=coded, name=name) if choice.options.get("norm") else coded


def code_edge(writer: Writer, tensor_name: str, consumer: str, choice: Choice, role: str) -> None:
    """Put quantization on the edge from a tensor to its consumer."""
    on_edge(writer, tensor_name, consumer, coder(writer, choice, name=f"{consumer}_{role}"))


def with_edges(model: Model, structure: Structure, plan: Plan) -> Edged:
    """The model with all activations of a plan quantized on edges, by bodies that torch runs, and float weights."""
    writer = Writer(model.copy(), structure, plan, in_floats=frozenset(specs()))
    edges: dict[str, Edge] = {}
    for key, choice in plan.items():
        site = plan.sites[key]
        node, index = writer.reads(writer.tensors[site.tensor], site.consumer)[0]
        code_edge(writer, site.tensor, site.consumer, choice, str(site.role))
        edges[key] = Edge(site.tensor, node.inputs[index].name)
    return Edged(writer.finish("fp32").proto, edges)


def _heads_in_batch(tensor: gs.Tensor, choice: Choice) -> bool:
    """Whether heads have their own scales on an axis that merges batch and heads."""
    heads = choice.options.get("heads", 1)
    by_head = isinstance(choice.params, UniformParams) and choice.params.scale.shape[-3:-2] == (heads,)
    return by_head and heads > 1 and tensor.shape[-3] != heads


def heads_apart(writer: Writer, tensor: gs.Tensor, choice: Choice, *, name: str) -> gs.Tensor:
    """``coded_edge`` of [batch * heads, N, d] with a separate axis for heads."""
    heads = choice.options["heads"]
    whole, matrix, parted = (
        writer.variable(f"{name}_{stage}", dtype=np.int64) for stage in ("whole", "matrix", "parted")
    )
    split, decoded = writer.variable(f"{name}_heads"), writer.variable(f"{name}_merged", tensor)
    split.shape = [f"{name}_batch", heads, *tensor.shape[-2:]]
    writer.node("Shape", [tensor], [matrix], name=f"{name}_matrix", start=-2)
    writer.node(
        "Concat",
        [writer.constant(f"{name}_lead", np.array([-1, heads])), matrix],
        [parted],
        name=f"{name}_parted",
        axis=0,
    )
    writer.node("Reshape", [tensor, parted], [split], name=f"{name}_split")
    writer.node("Shape", [tensor], [whole], name=f"{name}_whole")
    writer.node("Reshape", [coded_edge(writer, split, choice, name=name), whole], [decoded], name=f"{name}_merge")
    return decoded


def places_flat(writer: Writer, tensor: gs.Tensor, choice: Choice, *, name: str) -> gs.Tensor:
    """``coded_edge`` of [B, C, ...] with one axis for all places, so that ranges are per row or column."""
    second, granularity = PLACES[choice.granularity]
    flat, decoded = writer.variable(f"{name}_flat"), writer.variable(f"{name}_unflat", tensor)
    flat.shape = [f"{name}_batch", second or f"{name}_channels", f"{name}_places"]
    whole = writer.variable(f"{name}_whole", dtype=np.int64)
    writer.node(
        "Reshape", [tensor, writer.constant(f"{name}_lead", np.array([0, second, -1]))], [flat], name=f"{name}_flatten"
    )
    coded = coded_edge(writer, flat, replace(choice, granularity=granularity), name=name)
    writer.node("Shape", [tensor], [whole], name=f"{name}_whole")
    writer.node("Reshape", [coded, whole], [decoded], name=f"{name}_unflatten")
    return decoded
