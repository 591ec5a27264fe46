"""UniformQuantizeLinear, UniformDequantizeLinear, RowRange and DequantizeWeight of the library against NumPy, bit for
bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

Array = NDArray[Any]


def quantize(x: Array, scale: Array, zero: Array, bits: int) -> Array:
    with np.errstate(all="ignore"):
        codes = np.rint(x / np.asarray(scale, np.float32)) + np.asarray(zero, np.float32)
    return np.clip(np.nan_to_num(codes, nan=0.0, posinf=1e9, neginf=-1e9), 0, 2**bits - 1).astype(np.uint8)


def row_range(x: Array, bits: int, axis: int = -1) -> tuple[Array, Array]:
    largest, n = np.float32(3.4028235e38), np.float32(2**bits - 1)
    x = np.clip(np.where(np.isnan(x), np.float32(0), x), -largest, largest)
    low, high = x.min(axis, keepdims=True, initial=0), x.max(axis, keepdims=True, initial=0)
    scale = np.maximum(high / n - low / n, np.float32(1.17549435e-38))
    return scale, np.clip(np.rint(-low / scale), 0, n).astype(np.uint8)


def odd_values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = np.asarray(rng.normal(size=shape) * 3, np.float32)
    odd = np.array(
        [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 0.05, 0.15, -0.25, 1e30], np.float32
    )
    where = np.asarray(rng.random(shape) < 0.1)
    x[where] = rng.choice(odd, int(where.sum()))
    return x


SHAPES: list[tuple[tuple[int, ...], ...]] = [
    ((3, 5, 37), (), ()),
    ((3, 5, 37), (37,), (37,)),
    ((3, 5, 37), (3, 5, 1), (5, 37)),
    ((3, 5, 37), (5, 1), (5, 1)),
    ((3, 5, 37), (3, 1, 37), ()),
    ((2, 3, 4, 5, 6), (3, 1, 5, 1), (1, 1)),
    ((), (), ()),
    ((0, 4), (4,), ()),
    ((70000,), (1,), (1,)),
    ((2, 70000), (2, 1), (70000,)),
]


@pytest.mark.parametrize(
    ("bits", "shape", "scale", "zero"),
    [(b, *s) for s in SHAPES for b in (2, 3, 4, 5, 6, 7, 8) if b == 4 or len(s[0]) == 3],
)
def test_quantize_and_dequantize(
    run: Any,
    isa: str,
    rng: np.random.Generator,
    bits: int,
    shape: tuple[int, ...],
    scale: tuple[int, ...],
    zero: tuple[int, ...],
) -> None:
    x = odd_values(rng, shape)
    s = np.asarray(0.1 + rng.integers(0, 3, scale) * 0.05, np.float32)
    z = np.asarray(rng.integers(0, 2**bits, zero), np.uint8)
    codes = run("UniformQuantizeLinear", x, s, z, bits=bits)
    assert codes.shape == shape
    np.testing.assert_array_equal(codes, quantize(x, s, z, bits))
    y = run("UniformDequantizeLinear", codes, s, z, bits=bits)
    np.testing.assert_array_equal(y, (codes.astype(np.float32) - z.astype(np.float32)) * s)


@pytest.mark.parametrize("bits", [2, 6, 8])
@pytest.mark.parametrize("shape", [(7, 64), (2, 3, 1), (4, 0), (0, 5), (33,), (2, 40000)])
def test_row_range(run: Any, isa: str, rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> None:
    x = odd_values(rng, shape)
    if x.ndim > 1 and x.size:
        x[0] = 0
        x[-1] = np.abs(x[-1])
    for axis in (-1, -2)[: x.ndim]:
        scale, zero = run("RowRange", x, bits=bits, axis=axis, outputs=2)
        expected = row_range(x, bits, axis)
        np.testing.assert_array_equal(scale, expected[0])
        np.testing.assert_array_equal(zero, expected[1])


def stream(codes: Array, bits: int) -> Array:
    """Unsigned codes as a little-endian bit stream, padded to a multiple of 8 codes."""
    flat = np.concatenate([codes.ravel(), np.zeros(-codes.size % 8, codes.dtype)]).astype(np.uint8)
    return np.packbits(np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little").ravel(), bitorder="little")


def stored(codes: Array, bits: int) -> Array | onnx.TensorProto:
    """Signed codes as a model stores them."""
    if bits == 8:
        return codes.astype(np.int8)
    if bits == 4:
        return onnx.helper.make_tensor("w", TensorProto.INT4, codes.shape, codes.astype(np.int8).ravel())
    return stream(codes + 2 ** (bits - 1), bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(
    ("shape", "axis", "group"), [((13, 20), 1, 0), ((5, 3, 3, 2), 0, 0), ((6, 5, 2, 2), -3, 0), ((10, 7), 1, 4)]
)
def test_dequantize_weight(
    run: Any, rng: np.random.Generator, bits: int, shape: tuple[int, ...], axis: int, group: int
) -> None:
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, shape)
    parameters = (-(-shape[0] // group), shape[1]) if group else (shape[axis],)
    scale = rng.random(parameters).astype(np.float32)
    zero = rng.integers(-half, half, parameters).astype(np.int8)
    y = run("DequantizeWeight", stored(codes, bits), scale, zero, bits=bits, axis=axis, group=group, shape=list(shape))
    if group:
        where: Any = np.arange(shape[0]) // group
    else:
        where = (slice(None),) + (None,) * (len(shape) - 1 - axis % len(shape))
    np.testing.assert_array_equal(y, (codes - zero[where].astype(int)).astype(np.float32) * scale[where])


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "bits is missing"),
        ({"bits": 9}, "must be 2 to 8"),
        ({"bits": "8"}, "wrong type"),
        ({"bits": 0}, "must be 2 to 8"),
    ],
)
def test_bad_attributes_are_sentences(run: Any, attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=f"onnxptq.UniformQuantizeLinear 'node'.*{words}"):
        run("UniformQuantizeLinear", np.ones(3, np.float32), np.float32(1), np.uint8(0), **attributes)


def test_bad_shapes_are_sentences(run: Any) -> None:
    with pytest.raises(Exception, match=r"scale \[4\] and zero \[\] must broadcast to the input's shape \[2, 3\]"):
        run("UniformQuantizeLinear", np.ones((2, 3), np.float32), np.ones(4, np.float32), np.uint8(0), bits=4)
    with pytest.raises(Exception, match="do not hold 12 codes of 6 bits"):
        run(
            "DequantizeWeight",
            np.zeros(9, np.uint8),
            np.ones(4, np.float32),
            np.zeros(4, np.int8),
            bits=6,
            axis=1,
            shape=[3, 4],
        )


def test_ranges_are_of_rows_or_columns(run: Any) -> None:
    with pytest.raises(Exception, match="axis = 0; it must be -1, for rows, or -2, for columns"):
        run("RowRange", np.ones((2, 3), np.float32), bits=4, axis=0, outputs=2)
    with pytest.raises(Exception, match=r"x \[3\] must have at least two dimensions for ranges of columns"):
        run("RowRange", np.ones(3, np.float32), bits=4, axis=-2, outputs=2)


def test_an_unknown_instruction_set_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPTQ_ISA", "sse9")
    with pytest.raises(Exception, match="ONNXPTQ_ISA=sse9 is not one of portable"):
        run("RowRange", np.ones((1, 3), np.float32), bits=4, outputs=2)
