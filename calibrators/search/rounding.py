"""Ranges of constant weights: extrema, percentiles, or the 2.4-power grid; no walk over samples."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.calibrators.search.grid import Grid, grid_search
from onnxptq.calibrators.search.objectives import column_error, uniform_codes
from onnxptq.errors import InputError
from onnxptq.machine import cores
from onnxptq.ops.uniform import UniformParams

METHODS = ("minmax", "percentile", "omse")
SHARES = (0.99999, 0.9999, 0.999)
_BLOCK = 1 << 18
"""Elements searched together: they stay in cache."""
Codes = tuple[F32, NDArray[np.uint8]]


def search_weight(
    w: F32, *, bits: int, axis: int | None, symmetric: bool = False, method: str = "omse", threads: int | None = None
) -> UniformParams:
    """Uniform codes of a weight, one range for each index of ``axis`` (None: one for all); shaped to broadcast against
    it.

    ``omse``: |w^ - w|^2.4 is least among 100 widths times all zero-points (``grid_search``). The result does not depend
    on ``threads``.
    """
    w = np.asarray(w, np.float32)
    if not np.isfinite(w).all():
        raise InputError(f"a weight of shape {list(w.shape)} holds NaN or infinity; repair the model")
    rows = (
        w.reshape(1, -1)
        if axis is None
        else np.moveaxis(w, axis, 0).reshape(w.shape[axis], w.size // max(w.shape[axis], 1))
    )
    search = _search(rows, bits, symmetric, method)
    length = max(rows.shape[1], 1)
    starts = range(0, len(rows), max(_BLOCK // length, 1))
    blocks = [slice(start, start + starts.step) for start in starts]
    workers = min(threads or cores(), len(blocks))
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda block: search(np.ascontiguousarray(rows[block])), blocks))
    else:
        found = [search(np.ascontiguousarray(rows[block])) for block in blocks]
    scale = np.concatenate([scale for scale, _ in found]) if found else np.zeros(0, np.float32)
    zero = np.concatenate([zero for _, zero in found]) if found else np.zeros(0, np.uint8)
    shape = [] if axis is None else [1] * w.ndim
    if axis is not None:
        shape[axis] = len(rows)
    return UniformParams(bits, scale.reshape(shape), zero.reshape(shape))


def _search(rows: F32, bits: int, symmetric: bool, method: str) -> Callable[[F32], Codes]:
    """The search of one block of rows."""
    if method == "minmax" or not rows.size:
        return lambda block: _codes(block.min(axis=1, initial=0), block.max(axis=1, initial=0), bits, symmetric)
    if method == "percentile":
        return lambda block: _percentile(block, bits, symmetric)
    if method == "omse":
        grid = Grid.of(bits, symmetric=symmetric, low=float(rows.min()), high=float(rows.max()))
        return lambda block: grid_search(block, grid)
    raise InputError(f"weight calibrator {method!r}: use one of {', '.join(METHODS)}")


def _codes(low: F32 | F64, high: F32 | F64, bits: int, symmetric: bool) -> Codes:
    codes = uniform_codes(low, high, bits, signed=symmetric)
    return codes.scale, codes.zero


def _percentile(rows: F32, bits: int, symmetric: bool) -> Codes:
    """The percentile range of least squared error, row by row."""
    lows, highs = np.quantile(rows, [1 - s for s in SHARES], axis=1), np.quantile(rows, SHARES, axis=1)
    candidates = [uniform_codes(low, high, bits, signed=symmetric) for low, high in zip(lows, highs, strict=True)]
    winner = np.stack([column_error(rows.T, codes) for codes in candidates]).argmin(axis=0)[None]
    scale, zero = np.stack([c.scale for c in candidates]), np.stack([c.zero for c in candidates])
    return np.take_along_axis(scale, winner, axis=0)[0], np.take_along_axis(zero, winner, axis=0)[0]
