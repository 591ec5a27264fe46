"""Quantized weights, stored at their true width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.lower.writer import Writer
from onnxptq.ops import schemes
from onnxptq.ops.pack import store_weight
from onnxptq.plan import Choice


@dataclass(frozen=True)
class CodedWeight:
    """The three inputs of every op with a quantized weight."""

    codes: gs.Constant
    scale: gs.Constant
    zero: gs.Constant
    bits: int
    shape: tuple[int, ...]


def coded(
    writer: Writer, name: str, choice: Choice
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Unsigned codes, with scale and zero-point as vectors over the output channels."""
    params = writer.float_params(choice)
    weight = writer.weight(name)
    codes = np.asarray(schemes()["uniform"].encode(weight, params), np.uint8)
    channels = max(params.scale.size, 1)
    return codes, params.scale.reshape(channels), params.zero.reshape(channels)


def store(writer: Writer, name: str, choice: Choice, channels: int) -> CodedWeight:
    """Store a weight's codes at their true width, with scale and zero-point per output channel, as graph constants."""
    codes, scale, zero = coded(writer, name, choice)
    if scale.size == 1:
        scale, zero = np.repeat(scale, channels), np.repeat(zero, channels)
    held = store_weight(codes, choice.bits)
    if isinstance(held, np.ndarray):
        constant = writer.constant(f"{name}_codes", held)
        size = held.nbytes
    else:
        constant = writer.initializer(f"{name}_codes", held)
        size = (codes.size * choice.bits + 7) // 8
    signed = (zero.astype(np.int16) - (1 << (choice.bits - 1))).astype(np.int8)
    writer.weight_bytes += size + scale.nbytes + signed.nbytes
    return CodedWeight(
        constant,
        writer.constant(f"{name}_scale", scale.astype(np.float32)),
        writer.constant(f"{name}_zero", signed),
        choice.bits,
        tuple(codes.shape),
    )
