"""fold-bn: fold a BatchNormalization directly after a convolution or linear into its weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.edit import is_output, remove, set_constant
from onnxptq.graph.model import Model, value
from onnxptq.passes.base import Change, Pass
from onnxptq.passes.linears import scale_output, shift_output
from onnxptq.structure import Conv, Linear, Structure

F64 = NDArray[np.float64]


class FoldBatchNorm(Pass):
    """Fold y = (x - mean) * gamma / sqrt(var + eps) + beta, a scale and a shift per channel, into the layer before it.

    1. Only the BatchNormalization reads the convolution or linear.
    2. After a linear, a Reshape to [rows, channels] or a Transpose that moves channels to axis 1 may lie between.
    """

    name = "fold-bn"
    moves = frozenset({"query", "key", "value", "norm"})
    restructures = True

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> list[Change]:
        """See the class."""
        changes = []
        linears = {linear.output: linear for linear in structure.linears.values()}
        convs = {conv.output: conv for conv in structure.convs.values()}
        for norm in [node for node in model.graph.nodes if node.op == "BatchNormalization"]:
            made = _fold(model, norm, linears, convs)
            changes.append(Change(self.name, norm.name, made.what, made.done))
        return changes


@dataclass(frozen=True)
class _Outcome:
    what: str
    done: bool = False


def _fold(model: Model, norm: gs.Node, linears: Mapping[str, Linear], convs: Mapping[str, Conv]) -> _Outcome:
    constants = [value(tensor) for tensor in norm.inputs[1:5]]
    if norm.attrs.get("training_mode", 0) or any(constant is None for constant in constants):
        return _Outcome("left alone: its statistics are not constant")
    gamma, beta, mean, variance = (np.asarray(constant, np.float64) for constant in constants)
    scale = gamma / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
    shift = beta - mean * scale
    source, why = _source(model, norm)
    if why:
        return _Outcome(f"left alone: {why}")
    if source.name in convs:
        conv = model.nodes()[convs[source.name].name]
        if len(conv.inputs) > 2 and not conv.inputs[2].is_empty() and value(conv.inputs[2]) is None:
            return _Outcome(f"left alone: the bias of {conv.name} is not constant")
        _fold_conv(model, conv, scale, shift)
    elif source.name in linears:
        linear = linears[source.name]
        scale_output(model, linear, scale)
        shift_output(model, linear, shift)
    else:
        return _Outcome("left alone: what it reads is made by no convolution or linear")
    maker = source.inputs[0].name
    _bypass(model, norm)
    return _Outcome(f"folded into {maker}", done=True)


def _source(model: Model, norm: gs.Node) -> tuple[gs.Tensor, str]:
    """The tensor before the moves of rule 2, and why it cannot be changed ('' if it can)."""
    tensor = norm.inputs[0]
    channels = norm.inputs[1].shape[0]
    direct = True
    while True:
        if not tensor.inputs:
            return tensor, "it reads an input of the model"
        if sum(reader.op not in ("Shape", "Size") for reader in tensor.outputs) != 1 or is_output(model, tensor):
            return tensor, f"{tensor.name} has another reader"
        maker = tensor.inputs[0]
        if maker.op not in ("Reshape", "Transpose") or not direct:
            break
        rank = len(tensor.shape) if tensor.shape is not None else 0
        if maker.op == "Reshape" and not (rank == 2 and _last(maker.inputs[0]) == _last(tensor) == channels):
            return tensor, f"Reshape {maker.name} lies between"
        if maker.op == "Transpose" and (
            len(maker.attrs.get("perm", ())) < 3 or maker.attrs["perm"][1] != len(maker.attrs["perm"]) - 1
        ):
            return tensor, f"Transpose {maker.name} lies between"
        tensor, direct = maker.inputs[0], False
    if maker.op in ("Add", "MatMul") and direct and (tensor.shape is None or len(tensor.shape) != 2):
        return tensor, "its channels are not the linear's"
    if maker.op in ("Conv", "ConvTranspose") and not direct:
        return tensor, "its channels are not the convolution's"
    return tensor, ""


def _last(tensor: gs.Tensor) -> Any:
    return tensor.shape[-1] if tensor.shape else None


def _fold_conv(model: Model, conv: gs.Node, scale: F64, shift: F64) -> None:
    old = np.asarray(value(conv.inputs[1]))
    if conv.op == "Conv":
        factor = scale.reshape(-1, *[1] * (old.ndim - 1))
    else:
        # Weight of a transposed convolution: [inputs, outputs / group, ...]; rows of group g make output channels of
        # group g.
        group = int(conv.attrs.get("group", 1))
        rows = np.repeat(scale.reshape(group, -1), old.shape[0] // group, axis=0)
        factor = rows.reshape(*rows.shape, *[1] * (old.ndim - 2))
    set_constant(model, conv, 1, old.astype(np.float64) * factor)
    given = len(conv.inputs) > 2
    if given and not conv.inputs[2].is_empty():
        set_constant(model, conv, 2, np.asarray(value(conv.inputs[2]), np.float64) * scale + shift)
        return
    bias = gs.Constant(model.unique(f"{conv.name}_bias"), shift.astype(old.dtype))
    if given:
        conv.inputs[2] = bias
    else:
        conv.inputs.append(bias)


def _bypass(model: Model, norm: gs.Node) -> None:
    """Remove the node; its output keeps its name, as a graph output must."""
    source, output = norm.inputs[0], norm.outputs[0]
    maker = source.inputs[0]
    place = next(i for i, tensor in enumerate(maker.outputs) if tensor is source)
    remove(model, norm)
    maker.outputs[place] = output
    for reader in list(source.outputs):
        reader.inputs[next(i for i, tensor in enumerate(reader.inputs) if tensor is source)] = output
