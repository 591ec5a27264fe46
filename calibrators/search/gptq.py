"""GPTQ: codes of a weight, input by input; later inputs compensate for each rounding error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.ops.uniform import affine_values

BLOCK = 64
"""Inputs whose errors are propagated together."""


def gptq(weight: F64, hessian: F64, scale: F32, zero: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [K, N] of small tr((W - Q)' H (W - Q)); ``scale`` and ``zero`` [N]. Inputs of most power first (act-order).

    With H = U D U', U unit upper triangular, input k is rounded at W_k + sum over j < k of U_jk (W_j - Q_j): the codes
    of GPTQ without an inverse (Chee et al., QuIP, 2023).
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    backwards = order[::-1]
    upper = np.linalg.cholesky(hessian[np.ix_(backwards, backwards)])[::-1, ::-1]
    # few digits: the last ones depend on the number of threads, and codes must not
    passed = (upper / np.diag(upper)).astype(np.float32).astype(np.float64)
    held = weight[order]
    errors, codes = np.empty(weight.shape), np.empty(weight.shape, np.uint8)
    step, offset, last = scale.astype(np.float64), zero.astype(np.float64), 2**bits - 1
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        wanted = held[start:stop] + passed[:start, start:stop].T @ errors[:start]
        for i in range(start, stop):
            code = np.clip(np.rint((wanted[i - start] + passed[start:i, i] @ errors[start:i]) / step) + offset, 0, last)
            codes[order[i]] = code
            errors[i] = held[i] - (code - offset) * step
    return codes


def nearest(weight: F64, scale: F32, zero: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [K, N], each number rounded on its own."""
    return np.clip(np.rint(weight / scale.astype(np.float64)) + zero, 0, 2**bits - 1).astype(np.uint8)


def decoded(codes: NDArray[np.uint8], scale: F32, zero: NDArray[np.uint8]) -> F32:
    """Values of codes [K, N]."""
    return affine_values(codes, scale, zero)
