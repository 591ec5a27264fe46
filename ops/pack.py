"""Codes at their true width: 8 bits as INT8, 4 bits as ONNX INT4, other widths as a little-endian bit stream.

Stored codes are signed (code - 2^(bits-1)) where ONNX has a signed type of the width; a bit stream holds the unsigned
ones. The stream is padded to a multiple of 8 codes, so that every eight of them fill ``bits`` whole bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.ops.body import FLOAT, INT32, Body

Bytes = NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Bytes of a stream of ``count`` codes."""
    return -(-count // 8) * bits


def pack(codes: Bytes, bits: int) -> Bytes:
    """Unsigned codes in C order as a stream of bits, the lowest bit of the first code first."""
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    groups = np.zeros((-(-flat.size // 8), 8), np.uint8)
    groups.reshape(-1)[: flat.size] = flat
    planes = np.unpackbits(groups[..., None], axis=-1, bitorder="little")[..., :bits]
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(stream: Bytes, bits: int, count: int) -> Bytes:
    """The first ``count`` codes of a stream."""
    planes = np.unpackbits(np.ascontiguousarray(stream, np.uint8), bitorder="little")
    codes = np.packbits(planes[: planes.size // bits * bits].reshape(-1, bits), axis=-1, bitorder="little")
    return codes.reshape(-1)[:count]


def store_weight(codes: Bytes, bits: int) -> NDArray[Any] | onnx.TensorProto:
    """Unsigned codes as ops read them: an array, or for 4 bits an unnamed INT4 tensor, which NumPy cannot hold."""
    if bits == 8:
        return (codes ^ np.uint8(128)).view(np.int8)
    if bits != 4:
        return pack(codes, bits)
    nibbles = pack(codes ^ np.uint8(8), 4)[: -(-codes.size // 2)]
    return onnx.TensorProto(data_type=onnx.TensorProto.INT4, dims=codes.shape, raw_data=nibbles.tobytes())


def signed_codes(stored: NDArray[Any] | onnx.TensorProto, bits: int, shape: Sequence[int]) -> NDArray[np.int8]:
    """Signed codes of a stored weight: ``store_weight`` inverted, except for the sign."""
    if isinstance(stored, onnx.TensorProto):
        stored = np.asarray(onnx.numpy_helper.to_array(stored))
    if bits in (4, 8):
        return stored.astype(np.int8).reshape(tuple(shape))
    count = int(np.prod(shape, dtype=np.int64))
    return (unpack(stored, bits, count).astype(np.int16) - (1 << (bits - 1))).astype(np.int8).reshape(tuple(shape))


def dequantize(
    stored: NDArray[Any] | onnx.TensorProto,
    scale: NDArray[np.float32],
    zero: NDArray[np.int8],
    *,
    bits: int,
    shape: Sequence[int],
    axis: int,
    group: int = 0,
) -> NDArray[np.float32]:
    """Floats of a stored weight: (code - zero) * scale, along ``axis``, or per ``group`` entries of the other axis."""
    codes = signed_codes(stored, bits, shape).astype(np.float32)
    spread, offset = (_spread(np.asarray(a), len(shape), shape[0], axis, group) for a in (scale, zero))
    return np.asarray((codes - offset.astype(np.float32)) * spread, np.float32)


def _spread(values: NDArray[Any], rank: int, rows: int, axis: int, group: int) -> NDArray[Any]:
    if group:
        return np.repeat(values, group, axis=0)[:rows]
    return values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def unpack_body(body: Body, stored: str, bits: int, shape: Sequence[int], kind: int = FLOAT) -> str:
    """Signed codes of a stored weight, as floats or INT32; a bit stream is unpacked by arithmetic on pairs of bytes."""
    if bits in (4, 8):
        return body.cast(stored, kind)
    count = int(np.prod(shape, dtype=np.int64))
    starts = [bits * i for i in range(8)]
    groups = body.cast(
        body("Reshape", stored, body.integers([packed_size(count, bits) // bits, bits]), allowzero=1), INT32
    )
    low = body("Gather", groups, body.integers([s // 8 for s in starts]), axis=1)
    high = body("Gather", groups, body.integers([min(s // 8 + 1, bits - 1) for s in starts]), axis=1)
    pair = body("Add", low, body("Mul", high, body.integer(256)))
    shifted = body("Div", pair, body.integers([1 << s % 8 for s in starts], "int32"))
    codes = body("Mod", shifted, body.integer(1 << bits))
    flat = body("Reshape", codes, body.integers([packed_size(count, bits) // bits * 8]), allowzero=1)
    kept = body("Slice", flat, body.integers([0]), body.integers([count]))
    shaped = body("Reshape", kept, body.integers(shape), allowzero=1)
    half = 1 << (bits - 1)
    if kind == INT32:
        return body("Sub", shaped, body.integer(half))
    return body("Sub", body.cast(shaped, FLOAT), body.number(float(half)))


def dequantize_body(
    body: Body, stored: str, scale: str, zero: str, *, bits: int, shape: Sequence[int], axis: int, group: int = 0
) -> str:
    """``dequantize`` in standard ops."""
    if group and bits == 4:
        stored = body.cast(stored, INT32)  # OpenVINO 2026.4 misreads INT4 codes whose scale varies along K, or crashes
    codes = unpack_body(body, stored, bits, shape)
    zero = body.cast(zero, FLOAT)
    if group:
        spread, offset = (_repeat_body(body, v, shape, group) for v in (scale, zero))
    else:
        column = body.integers([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
        spread, offset = (body("Reshape", v, column) for v in (scale, zero))
    return body("Mul", body("Sub", codes, offset), spread)


def _repeat_body(body: Body, values: str, shape: Sequence[int], group: int) -> str:
    """Rows of a matrix, each ``group`` times, cut to the weight's."""
    rows, columns = shape
    count = -(-rows // group)
    wide = body("Expand", body("Unsqueeze", values, body.integers([1])), body.integers([count, group, columns]))
    flat = body("Reshape", wide, body.integers([count * group, columns]), allowzero=1)
    return body("Slice", flat, body.integers([0]), body.integers([rows]), body.integers([0]))
