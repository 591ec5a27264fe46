"""LayerNormalizations that only linears read: find them, and move factors and offsets between norm and linears."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.edit import position, set_constant
from onnxptq.graph.model import Model, value
from onnxptq.passes.linears import obstacle, scale_input, shift_output, weight
from onnxptq.structure import Linear, Norm, Structure

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """A LayerNormalization over the last axis, and the linears that read its channels in order."""

    name: str
    output: str
    linears: tuple[Linear, ...]
    padded: bool
    """Whether zero tokens are added in between (windows that do not fill the image)."""
    shared: bool = False
    """Whether the output has other readers, so that the linears need their own normalization."""

    def columns(self, model: Model) -> F64:
        """The weights of each channel: [channels, outputs of all linears]."""
        return np.concatenate([weight(model, linear) for linear in self.linears], axis=1)


def readings(model: Model, structure: Structure, *, own: Collection[str] = ()) -> dict[str, Reading | str]:
    """The linears after each LayerNormalization, or why it cannot be changed.

    ``own``: linears that may get their own normalization, if they read the output itself and it has other readers.
    """
    return {name: _reading(model, structure, norm, own) for name, norm in structure.norm_readers.items()}


def _reading(model: Model, structure: Structure, norm: Norm, own: Collection[str]) -> Reading | str:
    node = model.nodes()[norm.name]
    rank = len(node.outputs[0].shape or ())
    scale = value(node.inputs[1])
    if scale is None or scale.ndim != 1 or int(node.attrs.get("axis", -1)) not in (-1, rank - 1):
        return "it is not over the last axis alone, with a constant scale"
    if norm.bias is not None and value(node.inputs[2]) is None:
        return "its bias is not constant"
    if not norm.exclusive:
        direct = tuple(
            structure.linears[name]
            for name in norm.readers
            if name in own and structure.linears[name].input == norm.output
        )
        if direct:
            return Reading(norm.name, norm.output, direct, padded=False, shared=True)
        return "not linears alone read it, channels in order"
    linears = tuple(linear for name, linear in structure.linears.items() if name in norm.readers)
    reasons = [why for linear in linears if (why := obstacle(model, norm.output, linear.input, zeros=True))]
    if reasons:
        return reasons[0]
    # Not norm.padded: whether a window is padded may depend on the size of the image.
    padded = any(obstacle(model, norm.output, linear.input, zeros=False) for linear in linears)
    return Reading(norm.name, norm.output, linears, padded)


def fold(model: Model, read: Reading, factor: F64, offset: F64) -> None:
    """Let the normalization output x / factor - offset instead of x, and undo it in its linears.

    Added zero tokens are zeros divided by the factor, and have to become -offset: if there are any, one Sub before the
    linears subtracts the offset instead of the normalization.
    """
    if read.shared:
        read = _split(model, read)
    norm = model.nodes()[read.name]
    scale = np.asarray(value(norm.inputs[1]), np.float64)
    bias = (
        np.asarray(value(norm.inputs[2]), np.float64)
        if len(norm.inputs) > 2 and not norm.inputs[2].is_empty()
        else np.zeros_like(scale)
    )
    set_constant(model, norm, 1, scale / factor)
    moved = bias / factor - (0 if read.padded else offset)
    if len(norm.inputs) > 2 and not norm.inputs[2].is_empty():
        set_constant(model, norm, 2, moved)
    elif moved.any():
        added = gs.Constant(model.unique(f"{norm.name}_bias"), moved.astype(norm.inputs[1].dtype))
        if len(norm.inputs) > 2:
            norm.inputs[2] = added
        else:
            norm.inputs.append(added)
    shifted: dict[str, gs.Tensor] = {}
    for linear in read.linears:
        product = model.nodes()[linear.name]
        source = product.inputs[0]
        if read.padded and offset.any():
            if source.name not in shifted:
                shifted[source.name] = _shifted(model, product, source, -offset)
            product.inputs[0] = shifted[source.name]
        scale_input(model, linear, factor)
        if offset.any():
            shift_output(model, linear, offset @ weight(model, linear))


def _split(model: Model, read: Reading) -> Reading:
    """Give the linears of a ``shared`` normalization a copy of it; other readers keep the original."""
    norm = model.nodes()[read.name]
    output = norm.outputs[0]
    own = gs.Variable(model.unique(f"{output.name}_linears"), dtype=output.dtype, shape=output.shape)
    copy = gs.Node(
        "LayerNormalization", model.unique(f"{norm.name}_linears"), dict(norm.attrs), list(norm.inputs), [own]
    )
    model.graph.nodes.insert(position(model, norm) + 1, copy)
    for linear in read.linears:
        model.nodes()[linear.name].inputs[0] = own
    return replace(read, name=copy.name, output=own.name, shared=False)


def _shifted(model: Model, reader: gs.Node, tensor: gs.Tensor, by: F64) -> gs.Tensor:
    """``tensor`` plus a constant, computed before its first reader."""
    moved = gs.Variable(model.unique(f"{tensor.name}_shifted"), dtype=tensor.dtype, shape=tensor.shape)
    constant = gs.Constant(model.unique(f"{tensor.name}_shift"), by.astype(tensor.dtype or np.float32))
    add = gs.Node("Add", model.unique(f"{reader.name}_shift"), inputs=[tensor, constant], outputs=[moved])
    model.graph.nodes.insert(position(model, reader), add)
    return moved
