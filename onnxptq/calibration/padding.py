"""Padding: the rows of a tensor that belong to tokens a mask input switches off, left out of every statistic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.summary import F32, Axes


@dataclass(frozen=True)
class Padding:
    """Which mask input says which tokens count, and the axis of the tensor that counts tokens."""

    mask: str
    axis: int


def valid_rows(x: F32, mask: NDArray[Any], axis: int, channels: Axes) -> F32:
    """``x`` without its padded tokens; ``mask`` is [batch, ..., tokens], zero where padded.

    The leading dimension of ``x`` is the batch, or batch times heads. Where the tokens do not fit the mask, ``x`` is no
    tensor of these tokens and stays whole. The result keeps its axes where channels stand before the tokens; otherwise
    all axes up to the tokens become one.
    """
    axis = axis - x.ndim if axis >= 0 else axis
    tokens = mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)
    if -axis > x.ndim or x.shape[axis] != tokens.shape[1]:
        return x
    leading = x.shape[0] if -axis < x.ndim else 1
    if leading % tokens.shape[0]:
        return x
    repeat = leading // tokens.shape[0]
    keep = tokens != 0
    if keep.all():
        return x
    kept = () if channels is None else (channels,) if isinstance(channels, int) else channels
    if all(axis < a < 0 for a in kept):
        where = np.repeat(keep, repeat, axis=0).reshape(leading, *[1] * (x.ndim + axis - 1), -1) if -axis < x.ndim else keep[0]
        return x[np.broadcast_to(where, x.shape[: x.ndim + axis + 1])]
    parts = [x[b * repeat : (b + 1) * repeat].compress(keep[b], axis=axis) for b in range(len(keep))]
    whole: F32 = np.concatenate(parts, axis=axis)
    return whole
