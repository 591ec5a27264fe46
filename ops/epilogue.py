"""Epilogues of fused ops: bias and an activation function."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops.body import Body
from onnxptq.ops.scheme import F32

NODES = 1 << 14
REACH = 6.0


@functools.cache
def _erf_nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    at = np.linspace(-REACH, REACH, NODES + 1)
    return np.asarray([math.erf(v) for v in at]), 2 / math.sqrt(math.pi) * np.exp(-at * at)


def erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error function to about 1e-15: cubic Hermite interpolation between values of ``math.erf`` (NumPy has
    none)."""
    values, slopes = _erf_nodes()
    step = 2 * REACH / NODES
    position = (np.clip(np.nan_to_num(x), -REACH, REACH) + REACH) / step
    i = np.minimum(position.astype(np.int64), NODES - 1)
    t = position - i
    rise = values[i + 1] - values[i]
    cubic = values[i] + t * t * (3 - 2 * t) * rise + step * t * (1 - t) * ((1 - t) * slopes[i] - t * slopes[i + 1])
    return np.where(np.isnan(x), np.nan, cubic)


def apply(y: NDArray[np.float64], epilogue: str) -> F32:
    """The activation function of the result, rounded to float32."""
    if epilogue == "relu":
        y = np.maximum(y, 0)
    elif epilogue == "gelu":
        y = y / 2 * (1 + erf(y / math.sqrt(2)))
    elif epilogue != "none":
        raise ValueError(f"epilogue {epilogue!r} is not one of none, gelu, relu")
    return y.astype(np.float32)


def apply_body(body: Body, y: str, epilogue: str, *, out: str) -> None:
    """``apply`` in standard ops."""
    if epilogue not in ("none", "gelu", "relu"):
        raise ValueError(f"epilogue {epilogue!r} is not one of none, gelu, relu")
    body({"none": "Identity", "relu": "Relu", "gelu": "Gelu"}[epilogue], y, out=out)
