"""Mix the channels of a head by a matrix and undo it in their readers: the matrix, and edits of the weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.rows import split_mix
from onnxptq.graph.edit import set_constant
from onnxptq.graph.model import Model, value
from onnxptq.passes.linears import bias_slot, weight
from onnxptq.structure import Linear

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def moment(rows: F64, ridge: float) -> F64:
    """Second moments of the columns, scaled to 1 on average, plus a ridge."""
    found = rows.T @ rows
    mean = float(np.diag(found).mean())
    return (found / mean if mean > 0 else np.zeros_like(found)) + ridge * np.eye(len(found))


def balancing(a: F64, b: F64) -> F64:
    """A with A' a A and inv(A) b inv(A)' equal.

    The root of the geometric mean of inv(a) and b, times a rotation that evens out the channels.
    """
    inverse, root = power(a, -0.5), power(a, 0.5)
    middle = inverse @ power(root @ b @ root, 0.5) @ inverse
    return power((middle + middle.T) / 2, 0.5) @ rotation(len(a))


def power(a: F64, exponent: float) -> F64:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(a)
    return np.asarray((vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T)


def rotation(n: int, seed: int = 0) -> F64:
    """Hadamard with random signs; a cosine transform where n is no power of two."""
    if n & (n - 1):
        place = np.arange(n)
        mixed = np.sqrt(2 / n) * np.cos(np.pi * (place[None] + 0.5) * place[:, None] / n)
        mixed[0] /= np.sqrt(2)
    else:
        mixed = np.ones((1, 1))
        while len(mixed) < n:
            mixed = np.block([[mixed, mixed], [mixed, -mixed]])
        mixed /= np.sqrt(n)
    signs = 1 - 2.0 * (split_mix(np.arange(n, dtype=np.uint64) + np.uint64(seed)) & np.uint64(1)).astype(np.float64)
    return np.asarray(signs[:, None] * mixed)


def mix_outputs(model: Model, linear: Linear, channels: I64, matrices: F64) -> None:
    """Multiply each head's output channels [heads, dim] by its matrix: weight and bias."""
    held = weight(model, linear)
    mixed = held.copy()
    for places, matrix in zip(channels, matrices, strict=True):
        mixed[:, places] = held[:, places] @ matrix
    set_constant(model, model.nodes()[linear.name], 1, mixed)
    slot = bias_slot(model, linear)
    if slot is not None:
        add, index = slot
        old = np.asarray(value(add.inputs[index]), np.float64)
        bias = old.reshape(-1).copy()
        for places, matrix in zip(channels, matrices, strict=True):
            bias[places] = old.reshape(-1)[places] @ matrix
        set_constant(model, add, index, bias.reshape(old.shape))


def mix_inputs(model: Model, linear: Linear, channels: I64, matrices: F64) -> None:
    """Multiply the weights of each head's input channels [heads, dim] by its matrix."""
    held = weight(model, linear)
    mixed = held.copy()
    for places, matrix in zip(channels, matrices, strict=True):
        mixed[places] = matrix @ held[places]
    set_constant(model, model.nodes()[linear.name], 1, mixed)


def repeated(channels: I64) -> bool:
    """Whether heads share channels."""
    return len(np.unique(channels)) < channels.size
