"""Scheme ``uniform``: evenly spaced values with static parameters, and the arithmetic of all such codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxptq.ops.body import FLOAT, LARGEST, Body
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


class Affine:
    """Shared by ``uniform``, ``token`` and ``row``: evenly spaced codes, once scale and zero-point are known."""

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


def _weight_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    body("Identity", dequantize_body(body, "codes", "scale", "zero", **attributes), out="y")


QUANTIZE, DEQUANTIZE = define_pair("uniform", ("float", "uint8"))
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
