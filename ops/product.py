"""Integer products of codes: exact in every runtime, on every CPU.

On x86 without VNNI onnxruntime multiplies UINT8 by INT8 in pairs, whose 16-bit sums saturate. So a weight is INT8 only
where no pair of products can exceed 16 bits, and UINT8 otherwise: those products are summed in 32 bits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxptq.ops.body import FLOAT, INT8, INT32, UINT8, Body
from onnxptq.ops.pack import unpack_body

SAFE_BITS = 15
"""Bits of both codes together up to which two products of UINT8 and INT8 fit 16 bits: (2^a - 1) * 2^w < 2^15."""


@dataclass(frozen=True)
class Term:
    """A coded tensor, or one of several whose sum it is: (codes - zero) * scale."""

    codes: str
    """UINT8."""
    zero: str
    """UINT8: one number, or one a row, [..., 1]."""
    scale: str
    """Float, of the same shape."""
    bits: int
    """Codes are below 2^bits."""
    by_row: bool = False


@dataclass(frozen=True)
class Weight:
    """A stored weight as an operand of integer products."""

    codes: str
    """INT8 or UINT8, of the weight's shape."""
    zero: str
    """One a channel, of the same type."""


def signed_body(body: Body, stored: str, zero: str, *, bits: int, shape: Sequence[int]) -> Weight:
    """The codes of a stored weight as INT8; computed from constants, so only once in a session."""
    return Weight(body.cast(unpack_body(body, stored, bits, shape, INT32), INT8), zero)


def unsigned_body(body: Body, stored: str, zero: str, *, bits: int, shape: Sequence[int]) -> Weight:
    """The same plus 128, as UINT8."""
    signed = unpack_body(body, stored, bits, shape, INT32), body.cast(zero, INT32)
    return Weight(*(body.cast(body("Add", codes, body.integer(128)), UINT8) for codes in signed))


def weight_body(body: Body, stored: str, zero: str, *, bits: int, shape: Sequence[int], by: int) -> Weight:
    """The codes of a stored weight for products with codes of ``by`` bits."""
    make = signed_body if bits + by <= SAFE_BITS else unsigned_body
    return make(body, stored, zero, bits=bits, shape=shape)


def multiply_body(body: Body, terms: Sequence[Term], weight: Weight, scale: str) -> str:
    """The sum of the terms times a weight [K, N] with one scale a column, as floats."""
    parts = []
    for term in terms:
        zero = body.byte(0) if term.by_row else term.zero
        total = body("MatMulInteger", term.codes, weight.codes, zero, weight.zero)
        if term.by_row:
            columns = body("Sub", body.cast(weight.codes, INT32), body.cast(weight.zero, INT32))
            columns = body("ReduceSum", columns, body.integers([0]), keepdims=0)
            total = body("Sub", total, body("Mul", body.cast(term.zero, INT32), columns))
            parts.append(body("Mul", body("Mul", body.cast(total, FLOAT), scale), term.scale))
        else:
            parts.append(body("Mul", body.cast(total, FLOAT), body("Mul", scale, term.scale)))
    return parts[0] if len(parts) == 1 else body("Sum", *parts)
