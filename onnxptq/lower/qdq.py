"""Format ``qdq``: standard QuantizeLinear and DequantizeLinear around float ops.

Read by TensorRT, OpenVINO, QNN and onnxruntime. Widths that standard ops lack use the next wider type: weights
keep their k-bit codes in it, and activations are clipped to the k-bit range before an 8-bit pair of the same
scale, so that the arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.lower import Constants
from onnxptq.lower.edges import normalised_edge, on_edge
from onnxptq.lower.weights import coded
from onnxptq.lower.writer import Lowered, Writer
from onnxptq.ops.product import SAFE_BITS
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Linear, Role, Site, Structure


def lower(
    model: Model, structure: Structure, plan: Plan, *, constants: Constants = "fp16", signed: bool = False
) -> Lowered:
    """Quantized edges around float ops. An InputError if the plan has dynamic or non-uniform schemes.

    ``signed`` stores all codes of activations as INT8 instead of UINT8.
    """
    beyond = inexpressible(plan)
    if beyond:
        raise refusal(plan, beyond)
    writer = Writer(model.copy(), structure, plan)
    widths = {choice.bits for choice in plan.values()} - {4, 8}
    if widths:
        writer.notes.append(
            f"format qdq: {', '.join(map(str, sorted(widths)))}-bit codes are stored in the next wider standard type"
        )
    for key, choice in plan.items():
        site = plan.sites[key]
        if site.role is Role.WEIGHT:
            continue
        _edge(writer, site, choice, signed=signed)
    for linear in structure.linears.values():
        _weight(writer, linear.name, linear.weight, axis=1)
        _bias(writer, linear)
    for conv in structure.convs.values():
        _weight(writer, conv.name, conv.weight, axis=1 if conv.transpose else 0)
    return writer.finish(constants)


def inexpressible(plan: Plan) -> list[str]:
    """Sites that cannot be expressed in QDQ.

    It expresses static uniform codes only, with one scale for activations, as runtimes require.
    """

    def expressed(site: Site, choice: Choice) -> bool:
        return isinstance(choice.params, UniformParams) and (site.role is Role.WEIGHT or choice.params.scale.size == 1)

    return [key for key, choice in plan.items() if not expressed(plan.sites[key], choice)]


def refusal(plan: Plan, sites: Sequence[str]) -> InputError:
    """The error about sites that cannot be expressed in QDQ."""
    return InputError(
        f"format qdq: {words(plan, sites)}; first: {sites[0]}; use format native or portable, or a uniform recipe"
    )


def words(plan: Plan, sites: Sequence[str]) -> str:
    """Number of sites that cannot be expressed in QDQ, and their schemes."""
    kinds = sorted(
        {f"{c.scheme} by {c.granularity}" if c.scheme == "uniform" else c.scheme for c in map(plan.__getitem__, sites)}
    )
    return f"{len(sites)} sites use a scheme that standard ops cannot express ({', '.join(kinds)})"


def _edge(writer: Writer, site: Site, choice: Choice, *, signed: bool) -> None:
    params = writer.float_params(choice)
    # OpenVINO 2026.4 drops the zero-points of a ConvTranspose's INT8 weight if those of its input are 0
    signed = signed or (writer.nodes[site.consumer].op == "ConvTranspose" and not params.zero.any())
    name = f"{site.consumer}_{site.role}"
    pair = partial(_pair, writer, choice=choice, params=params, name=name, signed=signed)

    def float_pair(tensor: gs.Tensor) -> gs.Tensor:
        """Insert an op without effect before the float op.

        OpenVINO 2026.4 sums a row of 8-bit codes in 8 bits unless another op comes first.
        """
        decoded = pair(tensor)
        result = writer.variable(f"{name}_float", decoded)
        writer.node("Abs", [decoded], [result], name=f"{name}_abs")
        return result

    normalised = partial(normalised_edge, writer, coded=float_pair, name=name)
    on_edge(writer, site.tensor, site.consumer, normalised if choice.options.get("norm") else pair)


def _pair(
    writer: Writer, tensor: gs.Tensor, *, choice: Choice, params: UniformParams, name: str, signed: bool = False
) -> gs.Tensor:
    """QuantizeLinear and DequantizeLinear; ``signed`` stores the codes as INT8 instead of UINT8."""
    scale, zero = params.scale.astype(np.float32).reshape(()), params.zero.reshape(())
    if choice.bits not in (4, 8):
        low, high = (scale * (np.float32(code) - zero.astype(np.float32)) for code in (0, 2**choice.bits - 1))
        clipped = writer.variable(f"{name}_clipped", tensor)
        bounds = [writer.constant(f"{name}_low", low), writer.constant(f"{name}_high", high)]
        writer.node("Clip", [tensor, *bounds], [clipped], name=f"{name}_clip")
        tensor = clipped
    scales = writer.constant(f"{name}_scale", scale)
    if choice.bits == 4:
        zeros: gs.Constant = writer.initializer(
            f"{name}_zero", helper.make_tensor("", TensorProto.UINT4, zero.shape, zero.reshape(-1).tolist())
        )
    elif signed:
        zeros = writer.constant(f"{name}_zero", (zero.astype(np.int16) - 128).astype(np.int8))
    else:
        zeros = writer.constant(f"{name}_zero", zero.astype(np.uint8))
    # graphsurgeon has no UINT4, so 4-bit codes have no declared type: the zero-point gives it
    kind = None if choice.bits == 4 else np.int8 if signed else np.uint8
    codes, decoded = writer.variable(f"{name}_codes", tensor, kind), writer.variable(f"{name}_decoded", tensor)
    writer.node("QuantizeLinear", [tensor, scales, zeros], [codes], name=f"{name}_quantize")
    writer.node("DequantizeLinear", [codes, scales, zeros], [decoded], name=f"{name}_dequantize")
    return decoded


def _weight(writer: Writer, consumer: str, weight: str, *, axis: int) -> None:
    found = writer.choice(consumer, Role.WEIGHT)
    if found is None:
        return
    choice = found[1]
    codes, scale, zero = coded(writer, weight, choice)
    offset = 1 << (choice.bits - 1)
    signed, zeros = codes.astype(np.int16) - offset, zero.astype(np.int16) - offset
    if zeros.any() and _saturates(writer, consumer, choice):
        held, shift = writer.constant(f"{weight}_codes", codes), writer.constant(f"{weight}_zero", zero)
        writer.weight_bytes += codes.size + scale.nbytes + zeros.size
    elif choice.bits <= 4:
        held = writer.initializer(f"{weight}_codes", int4(signed.astype(np.int8)))
        shift = writer.initializer(f"{weight}_zero", int4(zeros.astype(np.int8)))
        writer.weight_bytes += (codes.size + 1) // 2 + scale.nbytes + zeros.size
    else:
        held = writer.constant(f"{weight}_codes", signed.astype(np.int8))
        shift = writer.constant(f"{weight}_zero", zeros.astype(np.int8))
        writer.weight_bytes += codes.size + scale.nbytes + zeros.size
    decoded = writer.variable(f"{weight}_decoded", writer.tensors[weight])
    scales = writer.constant(f"{weight}_scale", scale.astype(np.float32))
    writer.node("DequantizeLinear", [held, scales, shift], [decoded], name=f"{consumer}_weight", axis=axis)
    node = writer.nodes[consumer]
    node.inputs[1] = decoded


def _saturates(writer: Writer, consumer: str, choice: Choice) -> bool:
    """Whether products with an INT8 weight may exceed 16 bits, in which onnxruntime sums them on x86 without VNNI.

    UINT8 weights are exact there and as fast elsewhere. Symmetric weights stay INT8: users choose them for runtimes
    that accept no others.
    """
    x = writer.choice(consumer, Role.LINEAR_INPUT, Role.CONV_INPUT, Role.GELU)
    return (
        x is not None
        and x[1].bits + choice.bits > SAFE_BITS
        and writer.nodes[consumer].op in ("MatMul", "Conv", "Gemm")
    )


def _bias(writer: Writer, linear: Linear) -> None:
    """Give the bias of a quantized linear three dimensions.

    onnxruntime fuses a MatMul and a bias of one dimension to a Gemm before it looks for integer products, and computes
    the Gemm in floats.
    """
    output = writer.tensors[linear.output]
    if linear.bias is None or output.shape is None or writer.choice(linear.name, Role.WEIGHT) is None:
        return
    assert linear.bias_node is not None
    add, values = writer.nodes[linear.bias_node], writer.weight(linear.bias)
    wide = gs.Constant(writer.fresh(f"{linear.bias}_wide"), values.reshape(1, 1, -1))
    add.inputs = [wide if read.name == linear.bias else read for read in add.inputs]
    if len(output.shape) == 2:
        raised = writer.variable(f"{linear.output}_raised")
        add.outputs = [raised]
        axes = writer.constant(f"{linear.output}_axes", np.array([0]))
        writer.node("Squeeze", [raised, axes], [output], name=f"{linear.name}_squeeze")


def int4(values: np.ndarray) -> TensorProto:
    """Signed codes as an INT4 tensor, two per byte."""
    flat = values.reshape(-1)
    low = flat[0::2].astype(np.uint8) & 0xF
    high = np.zeros_like(low)
    high[: flat[1::2].size] = flat[1::2].astype(np.uint8) & 0xF
    tensor = TensorProto(data_type=TensorProto.INT4, dims=values.shape)
    tensor.raw_data = (low | (high << 4)).astype(np.uint8).tobytes()
    return tensor
