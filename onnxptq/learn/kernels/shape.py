"""Ops that move elements or return shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxptq.errors import InputError
from onnxptq.learn.tensors import from_array

Ints = list[int]


def Identity(x: Tensor) -> Tensor:
    """The input unchanged."""
    return x


def Dropout(
    x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None, *, seed: int = 0, outputs: int
) -> tuple[Tensor, ...]:
    """The input unchanged: nothing is dropped outside of training."""
    if training is not None and bool(training):
        raise InputError("torch executor: Dropout in training mode is not supported")
    return (x, torch.ones_like(x, dtype=torch.bool))[:outputs]


def Constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: Ints | None = None,
) -> Tensor:
    """The value of the given attribute."""
    if value is not None:
        return value
    floats = value_float if value_float is not None else value_floats
    return from_array(
        np.asarray(floats, np.float32) if floats is not None else np.asarray(value_int or value_ints or 0, np.int64)
    )


def ConstantOfShape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    """A tensor of one number, by default the float 0."""
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape)


def Range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Evenly spaced numbers."""
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    return start + delta * torch.arange(count, dtype=start.dtype, device=start.device)


def Shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Dimensions; they stay on the CPU."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def Size(x: Tensor) -> Tensor:
    """Number of elements; it stays on the CPU."""
    return torch.tensor(x.numel())


def Reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """0 keeps a dimension unless ``allowzero``; -1 is computed from the rest."""
    full = [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape)]
    if -1 in full and x.numel() == 0:
        # torch cannot compute -1 for an empty tensor.
        known = math.prod(n for n in full if n != -1)
        full = [(x.numel() // known if known else 0) if n == -1 else n for n in full]
    return x.reshape(full)


def Flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten to a matrix."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def Squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Remove axes of length 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def Unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Add axes of length 1, at positions in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def Transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """Permute axes, by default in reverse."""
    return x.permute(list(reversed(range(x.ndim))) if perm is None else perm)


def Expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast both shapes."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape)))


def Tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(repeats)


def Concat(*parts: Tensor, axis: int) -> Tensor:
    """Concatenate along an axis."""
    return torch.cat(parts, axis)


def Split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int = 0, outputs: int
) -> tuple[Tensor, ...]:
    """Split along an axis: into the given lengths, or equal ones, of which the last may be shorter."""
    length = x.shape[axis]
    if split is None:
        each = -(-length // outputs)
        split = [min(each, length - i * each) for i in range(outputs)]
    return torch.split(x, split, axis)


def DepthToSpace(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move channels to pixels."""
    n, c, h, w = x.shape
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    apart = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
    return apart.permute(0, 3, 4, 1, 5, 2).reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def SpaceToDepth(x: Tensor, *, blocksize: int) -> Tensor:
    """Move pixels to channels."""
    n, c, h, w = x.shape
    apart = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return apart.permute(0, 3, 5, 1, 2, 4).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def Pad(
    x: Tensor, pads: Ints, value: Tensor | None = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Tensor:
    """Pad both ends of axes (crop where negative)."""
    chosen = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    ends = dict(zip(chosen, zip(pads[: len(chosen)], pads[len(chosen) :], strict=True), strict=True))
    if mode == "constant":
        flat = [n for axis in reversed(range(x.ndim)) for n in ends.get(axis, (0, 0))]
        return functional.pad(x, flat, value=0 if value is None else value.item())
    for axis, (before, after) in ends.items():
        inside = np.arange(max(0, -before), x.shape[axis] - max(0, -after))
        places = np.pad(inside, (max(0, before), max(0, after)), mode=mode)  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(places).to(x.device))
    return x
