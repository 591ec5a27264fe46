"""Ops that pick elements."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxptq.errors import InputError

Ints = list[int]


def _wrapped(indices: Tensor, length: int) -> Tensor:
    """Negative indices converted to indices from the start."""
    places = indices.to(torch.int64)
    return torch.where(places < 0, places + length, places)


def Slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """A range of each axis."""
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[i] if axes is not None else i, steps[i] if steps is not None else 1
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def Gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Slices across one axis."""
    axis %= x.ndim
    places = _wrapped(indices, x.shape[axis])
    return x.index_select(axis, places.reshape(-1)).reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def GatherElements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """One element per index."""
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


def _cells(x: Tensor, indices: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """Indices [..., d] of cells in torch's form: one tensor for each of the first dimensions, batch axes included."""
    lead = indices.shape[:batch]
    along = [
        torch.arange(n, device=x.device).reshape([-1 if j == i else 1 for j in range(indices.ndim - 1)])
        for i, n in enumerate(lead)
    ]
    return (*along, *(_wrapped(part, x.shape[batch + i]) for i, part in enumerate(indices.unbind(-1))))


def GatherND(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """The slice at each cell."""
    return x[_cells(x, indices, batch_dims)]


def ScatterND(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """``x`` with cells replaced or added to."""
    if reduction not in ("none", "add"):
        raise InputError(f"torch executor: ScatterND with reduction {reduction!r} is not supported")
    return x.index_put(_cells(x, indices), updates, accumulate=reduction == "add")


def Trilu(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    """The triangle above or below the k-th diagonal."""
    diagonal = k[0] if k is not None else 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
