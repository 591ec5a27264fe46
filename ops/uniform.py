"""Schemes ``uniform`` (evenly spaced values, static parameters), ``token`` and ``row`` (parameters from each row)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxptq.ops.body import FLOAT, LARGEST, UINT8, Body
from onnxptq.ops.pack import dequantize, dequantize_body
from onnxptq.ops.pair import define_pair
from onnxptq.ops.product import Term
from onnxptq.ops.scheme import F32, FLOATS, UINT8S, Array, Codes, Options, Params, Scheme
from onnxptq.ops.spec import OpSpec

U8 = NDArray[np.uint8]
SMALLEST = 1.1754943508222875e-38
"""The smallest normal float32: no scale is smaller."""
SHRINK = tuple(i / 100 for i in range(1, 101))
"""The shares of a range that searches try."""
NO_ZERO: U8 = np.zeros((), np.uint8)


@dataclass(frozen=True, eq=False)
class UniformParams(Params):
    """value = (code - zero) * scale. The arrays broadcast against the tensor: one number, or one per channel, head, row
    ..."""

    scale: F32 = field(metadata=FLOATS)
    zero: U8 = field(metadata=UINT8S)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(bool((self.scale > 0).all()), "scale must be positive")
        self.require(bool((self.zero < 2**self.bits).all()), f"zero must fit {self.bits} bits")


@dataclass(frozen=True, eq=False)
class TokenParams(Params):
    """Only the width: scale and zero-point come from each row."""


@dataclass(frozen=True, eq=False)
class RowParams(Params):
    """Only the width: the scale comes from each row's maximum."""


def affine(low: ArrayLike, high: ArrayLike, bits: int) -> UniformParams:
    """Codes 0 .. 2^bits - 1 over [low, high], extended to 0; arrays give one range each."""
    n = np.float32(2**bits - 1)
    lo = np.clip(np.minimum(np.asarray(low, np.float64), 0), -LARGEST, 0).astype(np.float32)
    hi = np.clip(np.maximum(np.asarray(high, np.float64), 0), 0, LARGEST).astype(np.float32)
    scale = np.maximum(hi / n - lo / n, np.float32(SMALLEST))
    return UniformParams(bits, scale, np.clip(np.rint(-lo / scale), 0, n).astype(np.uint8))


def symmetric(largest: ArrayLike, bits: int) -> UniformParams:
    """Signed codes -2^(bits-1) .. 2^(bits-1) - 1 around 0; scale = largest / (2^(bits-1) - 1/2), as in PTQ4ViT."""
    half = 2 ** (bits - 1)
    scale = np.maximum(np.abs(np.asarray(largest, np.float64)) / (half - 0.5), SMALLEST).astype(np.float32)
    return UniformParams(bits, scale, np.full(scale.shape, half, np.uint8))


def affine_codes(x: F32, scale: F32, zero: U8, bits: int) -> U8:
    """clip(rint(x / scale) + zero, 0, 2^bits - 1); NaN gives 0."""
    with np.errstate(all="ignore"):
        ratio = np.asarray(x / scale, np.float32)
        codes = np.clip(np.rint(ratio) + np.asarray(zero, np.float32), 0, 2**bits - 1)
        return np.where(np.isnan(ratio), 0, codes).astype(np.uint8)


def affine_values(codes: Codes, scale: F32, zero: U8) -> F32:
    """(code - zero) * scale."""
    with np.errstate(all="ignore"):
        return np.asarray((codes.astype(np.float32) - np.asarray(zero, np.float32)) * scale, np.float32)


def affine_codes_body(body: Body, x: str, scale: str, zero: str | None, bits: int) -> str:
    """``affine_codes`` in standard ops, as floats; a missing zero-point is 0."""
    ratio = body("Div", x, scale)
    codes = body("Round", ratio)
    if zero is not None:
        codes = body("Add", codes, body.cast(zero, FLOAT))
    if body.differentiable:
        return body.unless_nan(ratio, body("Clip", codes, body.number(0), body.number(2**bits - 1)))
    return body.positive(codes, 2**bits - 1)


def byte_codes_body(body: Body, x: str, scale: str, zero: str, bits: int, axis: int = 1) -> str:
    """``affine_codes`` by the standard QuantizeLinear, as UINT8: for one scale, or one along an axis."""
    codes = body("QuantizeLinear", x, scale, zero, axis=axis)
    return codes if bits == 8 else body("Clip", codes, body.byte(0), body.byte(2**bits - 1))


def affine_values_body(body: Body, codes: str, scale: str, zero: str | None) -> str:
    """``affine_values`` in standard ops."""
    return body("Mul", body("Sub", codes, body.cast(zero, FLOAT)) if zero is not None else codes, scale)


def row_range(x: F32, bits: int, axis: int | tuple[int, ...] = -1) -> tuple[F32, U8]:
    """Scale and zero-point of each row, [..., 1], or along other axes.

    ``affine`` of the extrema, with NaN read as 0 and infinities as the largest float.
    """
    held = np.nan_to_num(np.asarray(x, np.float32), nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    p = affine(held.min(axis, keepdims=True, initial=0), held.max(axis, keepdims=True, initial=0), bits)
    return p.scale, p.zero


def row_range_body(body: Body, x: str, bits: int, *axes: int) -> tuple[str, str]:
    """``row_range`` in standard ops."""
    n, over = body.number(2**bits - 1), body.integers(axes or (-1,))
    above, below = (_top_body(body, side, over) for side in (x, body("Neg", x)))
    scale = body("Clip", body("Add", body("Div", above, n), body("Div", below, n)), body.number(SMALLEST))
    return scale, body.cast(body("Round", body("Div", below, scale)), UINT8)


def _top_body(body: Body, x: str, axes: str) -> str:
    """The maximum of each row and 0."""
    held = body.unless_nan(x, x) if body.differentiable else body.positive(x)
    return body("Clip", body("ReduceMax", held, axes), body.number(0), body.number(LARGEST))


def _rows_body(body: Body, x: str, inputs: Sequence[str], bits: int) -> tuple[str, str, str]:
    """``x`` as a matrix of UINT8 codes with one scale and zero-point a row, and the vectors of these."""
    flat = body.integers([-1])
    scale = body("Reshape", inputs[0], flat)
    zero = body("Reshape", inputs[1], flat) if len(inputs) > 1 else _no_zeros(body, scale)
    return byte_codes_body(body, body("Flatten", x, axis=-1), scale, zero, bits, axis=0), scale, zero


def _no_zeros(body: Body, like: str) -> str:
    return body("Expand", body.byte(0), body.shape(like, 0))


class Affine:
    """Shared by the three schemes: evenly spaced codes, once scale and zero-point are known."""

    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """Codes by scale and zero-point."""
        return affine_codes(x, inputs[0], inputs[1] if len(inputs) > 1 else NO_ZERO, bits)

    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """Values by scale and zero-point."""
        return affine_values(codes, inputs[0], inputs[1] if len(inputs) > 1 else NO_ZERO)

    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Codes, as floats."""
        return affine_codes_body(body, x, inputs[0], inputs[1] if len(inputs) > 1 else None, bits)

    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Values of codes that are floats."""
        return affine_values_body(body, codes, inputs[0], inputs[1] if len(inputs) > 1 else None)

    def codes_input(self, body: Body, codes: str) -> str:
        """Codes as floats."""
        return body.cast(codes, FLOAT)


class RowWise(Affine):
    """Shared by the two dynamic schemes: each row has its own scale."""

    def fake_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """By the standard pair, on the rows of a matrix."""
        bound = self.bind_body(body, x, inputs, bits)
        if body.differentiable:
            return self.values_body(body, self.codes_body(body, x, bound, bits, options), bound, bits, options)
        codes, scale, zero = _rows_body(body, x, bound, bits)
        return body.reshape(body("DequantizeLinear", codes, scale, zero, axis=0), body.shape(x, 0))

    def terms_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> tuple[Term, ...]:
        """Codes by row."""
        bound = [body.one_place(value) for value in self.bind_body(body, x, inputs, bits)]
        codes = body.reshape(_rows_body(body, x, bound, bits)[0], body.shape(x, 0))
        return (Term(codes, bound[1] if len(bound) > 1 else body.byte(0), bound[0], bits, by_row=True),)

    def bind_body(self, body: Body, x: str, inputs: Sequence[str], bits: int) -> Sequence[str]:
        """The ranges of the rows."""
        raise NotImplementedError


class Uniform(Affine, Scheme[UniformParams]):
    """Evenly spaced values."""

    name = "uniform"
    params = UniformParams
    doc = (
        "code = clip(rint(x / scale) + zero, 0, 2^bits - 1), value = (code - zero) * scale; scale and zero "
        "broadcast against x."
    )
    inputs = ("scale", "zero")
    ops = "Uniform"

    def terms_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> tuple[Term, ...]:
        """Codes by one scale."""
        scale = body("Squeeze", inputs[0])
        zero = body("Squeeze", inputs[1]) if len(inputs) > 1 else body.byte(0)
        return (Term(byte_codes_body(body, x, scale, zero, bits), zero, scale, bits),)

    def grid(self, low: float, high: float, bits: int) -> Iterator[UniformParams]:
        """The range shrunk by 100 factors; an end at 0 stays."""
        for factor in SHRINK:
            yield affine(factor * low, factor * high, bits)


class Token(RowWise, Scheme[TokenParams]):
    """Affine, by the range of each row (the last axis)."""

    name = "token"
    params = TokenParams
    doc = "like `uniform`, with scale and zero of each row taken from the row itself (op RowRange)."
    dynamic = True

    def bind(self, x: F32, inputs: Sequence[Array], bits: int) -> Sequence[Array]:
        """The ranges of the rows."""
        return row_range(x, bits)

    def bind_body(self, body: Body, x: str, inputs: Sequence[str], bits: int) -> Sequence[str]:
        """The ranges of the rows."""
        return row_range_body(body, x, bits)

    def grid(self, low: float, high: float, bits: int) -> Iterator[TokenParams]:
        """Empty: there are no candidates."""
        yield TokenParams(bits)


class Row(RowWise, Scheme[RowParams]):
    """For softmax outputs: 0 to the row's maximum."""

    name = "row"
    params = RowParams
    doc = "for softmax outputs: zero = 0 and scale = the row's maximum / (2^bits - 1)."
    dynamic = True

    def bind(self, x: F32, inputs: Sequence[Array], bits: int) -> Sequence[Array]:
        """The maxima of the rows as scales."""
        held = np.nan_to_num(np.asarray(x, np.float32), nan=0.0, posinf=LARGEST, neginf=0.0)
        return (np.maximum(held.max(-1, keepdims=True, initial=0) / np.float32(2**bits - 1), np.float32(SMALLEST)),)

    def bind_body(self, body: Body, x: str, inputs: Sequence[str], bits: int) -> Sequence[str]:
        """The maxima of the rows as scales."""
        top = _top_body(body, x, body.integers([-1]))
        return (body("Clip", body("Div", top, body.number(2**bits - 1)), body.number(SMALLEST)),)

    def grid(self, low: float, high: float, bits: int) -> Iterator[RowParams]:
        """Empty: there are no candidates."""
        yield RowParams(bits)


def _row_range_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    axis = attributes["axis"]
    for value, out in zip(row_range_body(body, "x", attributes["bits"], axis), ("scale", "zero"), strict=True):
        body.one_place(value, axis, out=out)


def _weight_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    body("Identity", dequantize_body(body, "codes", "scale", "zero", **attributes), out="y")


QUANTIZE, DEQUANTIZE = define_pair("uniform", ("float", "uint8"))
ROW_RANGE = OpSpec(
    name="RowRange",
    inputs=("x",),
    outputs=("scale", "zero"),
    attributes={"bits": None, "axis": -1},
    body=_row_range_body,
    reference=row_range,
    doc="Scale and zero-point [..., 1] of each row of x (its last axis), or, with `axis` -2, [..., 1, n] of each "
    "column, 0 inside the "
    "range: NaN counts as 0, infinities as the largest float; scale = max(high / n - low / n, 2^-126), zero = "
    "clip(rint(-low / scale), 0, "
    "n) with n = 2^bits - 1.",
    types=("float",),
    results=("float", "uint8"),
)
DEQUANTIZE_WEIGHT = OpSpec(
    name="DequantizeWeight",
    inputs=("codes", "scale", "zero"),
    outputs=("y",),
    attributes={"bits": None, "axis": 0, "group": 0, "shape": None},
    body=_weight_body,
    reference=dequantize,
    doc="Floats of a stored weight of the given shape: (code - zero) * scale, with scale and zero along `axis`, or, "
    "with `group` > 0, "
    "[ceil(rows / group), columns] over the rows of a matrix.",
    types=("stored weight", "float", "int8"),
)
