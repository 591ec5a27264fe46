"""Schemes ``token`` and ``row``: evenly spaced values with parameters from each row, found at run time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxptq.ops.body import LARGEST, UINT8, Body
from onnxptq.ops.product import Term
from onnxptq.ops.scheme import F32, Array, Options, Params, Scheme
from onnxptq.ops.spec import OpSpec
from onnxptq.ops.uniform import SMALLEST, U8, Affine, affine, byte_codes_body


@dataclass(frozen=True, eq=False)
class TokenParams(Params):
    """Only the width: scale and zero-point come from each row."""


@dataclass(frozen=True, eq=False)
class RowParams(Params):
    """Only the width: the scale comes from each row's maximum."""


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


class Token(RowWise, Scheme[TokenParams]):
    """Affine, by the range of each row (the last axis)."""

    name = "token"
    params = TokenParams
    doc = "like `uniform`, with scale and zero of each row taken from the row itself (op RowRange)."
    dynamic = True
    range_bits = 40

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
    range_bits = 32

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
