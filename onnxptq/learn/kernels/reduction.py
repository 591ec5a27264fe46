"""Reductions of axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Ints = list[int]


def _axes(x: Tensor, axes: Ints | None, noop: int) -> Ints:
    """The axes to reduce: all if none are given, unless ``noop_with_empty_axes`` is set."""
    if axes:
        return [axis % x.ndim for axis in axes]
    return [] if noop else list(range(x.ndim))


def _sum(x: Tensor, axes: Ints | None, keepdims: int, noop: int) -> Tensor:
    chosen = _axes(x, axes, noop)
    # torch takes no axes for all of them, and sums short integers as long ones.
    return torch.sum(x, chosen, keepdim=bool(keepdims), dtype=x.dtype) if chosen else x


def _extremum(
    of: Callable[..., Tensor], x: Tensor, axes: Ints | None, keepdims: int, noop: int, nothing: str
) -> Tensor:
    chosen = _axes(x, axes, noop)
    if not chosen:
        return x
    if any(x.shape[axis] == 0 for axis in chosen):
        shape = [1 if i in chosen else n for i, n in enumerate(x.shape) if keepdims or i not in chosen]
        limits = (
            torch.finfo(x.dtype)
            if x.is_floating_point()
            else torch.iinfo(torch.uint8 if x.dtype is torch.bool else x.dtype)
        )
        return x.new_full(shape, getattr(limits, nothing)) * (math.inf if x.is_floating_point() else 1)
    return of(x, chosen, bool(keepdims))


def ReduceSum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum."""
    return _sum(x, axes, keepdims, noop_with_empty_axes)


def ReduceMean(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Mean."""
    count = math.prod(x.shape[axis] for axis in _axes(x, axes, noop_with_empty_axes))
    return _sum(x, axes, keepdims, noop_with_empty_axes) / count


def ReduceSumSquare(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum of squares."""
    return _sum(x * x, axes, keepdims, noop_with_empty_axes)


def ReduceL1(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum of magnitudes."""
    return _sum(x.abs(), axes, keepdims, noop_with_empty_axes)


def ReduceL2(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Root of the sum of squares."""
    return torch.sqrt(_sum(x * x, axes, keepdims, noop_with_empty_axes))


def ReduceProd(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Product."""
    for axis in sorted(_axes(x, axes, noop_with_empty_axes), reverse=True):
        x = torch.prod(x, axis, keepdim=bool(keepdims), dtype=x.dtype)
    return x


def ReduceMax(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Maximum; minus infinity for an empty tensor."""
    return _extremum(torch.amax, x, axes, keepdims, noop_with_empty_axes, "min")


def ReduceMin(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Minimum; infinity for an empty tensor."""
    return _extremum(torch.amin, x, axes, keepdims, noop_with_empty_axes, "max")


def ArgMax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index of the maximum; the first or the last of equals."""
    if select_last_index:
        return x.shape[axis] - 1 - ArgMax(x.flip(axis), axis=axis, keepdims=keepdims)
    # torch.argmax may return any of equals.
    places = torch.arange(x.shape[axis], device=x.device).reshape(
        [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    )
    return torch.where(x == x.amax(axis, keepdim=True), places, x.shape[axis]).amin(axis, keepdim=bool(keepdims))


def ArgMin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index of the minimum; the first or the last of equals."""
    return ArgMax(-x, axis=axis, keepdims=keepdims, select_last_index=select_last_index)


def CumSum(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sums."""
    along = axis[0]
    held = x.flip(along) if reverse else x
    sums = torch.cumsum(held, along, dtype=x.dtype)
    sums = sums - held if exclusive else sums
    return sums.flip(along) if reverse else sums
