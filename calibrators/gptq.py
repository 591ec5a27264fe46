"""GPTQ: codes of a weight chosen one input after the other, each rounding error made up for by the inputs that follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.summary import F32, F64
from onnxptq.ops.uniform import affine_values

BLOCK = 64
"""Inputs whose errors are passed on at once."""


def gptq(weight: F64, hessian: F64, scale: F32, zero: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [K, N] of little tr((W - Q)' H (W - Q)); ``scale`` and ``zero`` [N]. Inputs of most power come first (act-order)."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    # few digits: the last ones depend on the number of threads, and codes should not
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T.astype(np.float32).astype(np.float64)
    left = weight[order]
    codes = np.empty(weight.shape, np.uint8)
    step, offset, last = scale.astype(np.float64), zero.astype(np.float64), 2**bits - 1
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.empty((stop - start, weight.shape[1]))
        for i in range(start, stop):
            code = np.clip(np.rint(left[i] / step) + offset, 0, last)
            codes[order[i]] = code
            errors[i - start] = (left[i] - (code - offset) * step) / upper[i, i]
            left[i + 1 : stop] -= np.outer(upper[i, i + 1 : stop], errors[i - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return codes


def nearest(weight: F64, scale: F32, zero: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [K, N] by rounding each number on its own."""
    return np.clip(np.rint(weight / scale.astype(np.float64)) + zero, 0, 2**bits - 1).astype(np.uint8)


def decoded(codes: NDArray[np.uint8], scale: F32, zero: NDArray[np.uint8]) -> F32:
    """The numbers that codes [K, N] stand for."""
    return affine_values(codes, scale, zero)
