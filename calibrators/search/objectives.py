"""Objectives: squared errors of uniform codes on histograms, on columns of sampled rows, and after a weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from onnxptq.bits import WIDEST
from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.ops import schemes
from onnxptq.ops.scheme import Params
from onnxptq.ops.uniform import UniformParams, affine, symmetric

_ROWS = 64
_DIGITS = 5


def few_digits(errors: ArrayLike) -> F64:
    """Errors rounded for comparison: their last digits depend on machine and threads, and a plan must not."""
    errors = np.asarray(errors, np.float64)
    known = (errors > 1e-280) & (errors < np.inf)
    power = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(np.where(known, errors, 1))))
    return np.where(known, np.rint(errors * power) / power, errors)


def charge(scheme: str, params: Params, line: int) -> float:
    """Factor for the error of a code: four for each bit that an element takes beyond the width.

    A bit of width reduces the error by that factor, so indices of groups and ranges at run time have to pay for theirs.
    Ranges of 8-bit codes are free: nobody who asks for 8 bits can buy a better code with what a range takes.
    """
    kind = schemes()[scheme]
    free = kind.range_bits / max(line, 1) if params.bits >= WIDEST else 0.0
    return float(4 ** (kind.bits_per_element(params, line) - params.bits - free))


def uniform_codes(low: ArrayLike, high: ArrayLike, bits: int, *, signed: bool = False) -> UniformParams:
    """Uniform codes over ranges; signed ones are symmetric, and the larger side decides."""
    return symmetric(np.maximum(-np.asarray(low), np.asarray(high)), bits) if signed else affine(low, high, bits)


def histogram_error(seen: Histogram, codes: UniformParams) -> F64:
    """Sum of squared errors over a histogram for each of K codes: integrated exactly, values being even within bins."""
    steps = codes.scale.astype(np.float64)[:, None]
    places = np.arange(2**codes.bits) - codes.zero.astype(np.int64)[:, None]
    values, edges = places * steps, (places[:, 1:] - 0.5) * steps
    ends = np.full((len(edges), 1), np.inf)
    number, total, squares = (
        np.diff(part, axis=1) for part in seen.integrals(np.concatenate([-ends, edges, ends], axis=1))
    )
    error: F64 = (squares - 2 * values * total + values**2 * number).sum(axis=1)
    return np.maximum(error, 0.0)


def column_error(rows: F32, codes: UniformParams) -> F64:
    """Sum of squared errors of each column, coded with its own scale and zero-point."""
    low = -codes.zero.astype(np.float32)
    high = low + np.float32(2**codes.bits - 1)
    error = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        error += np.square(np.clip(np.rint(block / codes.scale), low, high) * codes.scale - block).sum(
            axis=0, dtype=np.float64
        )
    return error


def even_noise(low: ArrayLike, high: ArrayLike, bits: int) -> F64:
    """Mean squared error of codes over ranges, under errors uniform over a step."""
    width = (np.maximum(high, 0) - np.minimum(low, 0)) / (2**bits - 1)
    noise: F64 = np.square(width) / 12
    return noise


def output_error(rows: F32, coded: F32, weight: F32 | None) -> float:
    """Squared norm of the coding error multiplied by a weight [K, N], or of the error itself without one."""
    change = coded - rows
    return float(np.square(change if weight is None else change @ weight, dtype=np.float64).sum())
