"""Scheme ``dual_region`` (PTQ4ViT's twin codes, PTQ4RIS' DRQ): the top bit selects one of two uniform regions.

Softmax form: region 1 is fine and near 0, its scale 2^-m times that of region 2, which reaches 1. GELU form: region 1
is the negative side. One region is *selected* for each value; the published code adds both. The softmax form's
threshold is halfway between region 1's top level and the first level of region 2 above it: with the bare split decoded
values would not be monotone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxptq.ops.body import FLOAT, Body
from onnxptq.ops.pair import define_pair
from onnxptq.ops.product import Term
from onnxptq.ops.scheme import F32, FLOATS, Array, Codes, Options, Params, Scheme
from onnxptq.ops.uniform import SMALLEST

GELU_LOWEST = 0.16997124254703522
"""The minimum of the erf form of GELU, negated."""
SPLITS = range(20)
SHRINK = tuple(0.01 + i * (1.2 - 0.01) / 100 for i in range(100))


@dataclass(frozen=True, eq=False)
class DualRegionParams(Params):
    """The scales of both regions and the start of the second one."""

    scale_low: F32 = field(metadata=FLOATS)
    scale_high: F32 = field(metadata=FLOATS)
    threshold: F32 = field(metadata=FLOATS)
    form: str = "softmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        arrays = (self.scale_low, self.scale_high, self.threshold)
        self.require(all(a.shape == () for a in arrays), "scales and threshold must be single numbers")
        self.require(bool(self.scale_low > 0 and self.scale_high > 0), "scales must be positive")
        self.require(self.form in ("softmax", "gelu"), f"form must be softmax or gelu, not {self.form!r}")

    def attributes(self) -> dict[str, int | str]:
        """The form."""
        return {"form": self.form}


def softmax_regions(bits: int, m: int, *, midpoint: bool = True) -> DualRegionParams:
    """Region 1 up to 2^-m, region 2 up to 1; ``midpoint=False`` takes the bare split as threshold, as published."""
    split, high = 2.0**-m, 1.0 / (2 ** (bits - 1) - 1)
    threshold = (split + high * math.ceil(split / high)) / 2 if midpoint else split
    return DualRegionParams(bits, np.asarray(split * high), np.asarray(high), np.asarray(threshold))


def gelu_regions(bits: int, scale_high: float) -> DualRegionParams:
    """The negative side over GELU's own range, the positive side by the given scale."""
    low = np.asarray(GELU_LOWEST / 2 ** (bits - 1))
    return DualRegionParams(bits, low, np.asarray(max(scale_high, SMALLEST)), np.asarray(0.0), "gelu")


def _offset(bits: int, options: Options) -> int:
    """The code of 0 in region 1."""
    return 1 << (bits - 1) if options["form"] == "gelu" else 0


class DualRegion(Scheme[DualRegionParams]):
    """Two uniform regions."""

    name = "dual_region"
    params = DualRegionParams
    doc = (
        "with h = 2^(bits-1): x >= threshold has code h + clip(rint(x / scale_high), 0, h - 1); below it, form "
        "softmax has code "
        "clip(rint(x / scale_low), 0, h - 1), form gelu (threshold 0) clip(rint(x / scale_low) + h, 0, h)."
    )
    inputs = ("scale_low", "scale_high", "threshold")
    attributes: ClassVar[Mapping[str, int | str]] = {"form": "softmax"}
    ops = "DualRegion"

    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """The codes of x in its region."""
        half, offset = 1 << (bits - 1), _offset(bits, options)
        with np.errstate(all="ignore"):
            low = np.clip(np.rint(x / inputs[0]) + np.float32(offset), 0, offset or half - 1)
            high = np.clip(np.rint(x / inputs[1]), 0, half - 1) + np.float32(half)
            return np.where(np.isnan(x), 0, np.where(x >= inputs[2], high, low)).astype(np.uint8)

    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """Values in their region's scale."""
        half, held = np.float32(1 << (bits - 1)), codes.astype(np.float32)
        with np.errstate(all="ignore"):
            low = (held - np.float32(_offset(bits, options))) * inputs[0]
            return np.asarray(np.where(held >= half, (held - half) * inputs[1], low), np.float32)

    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """The codes of x in its region, as floats."""
        half, offset, nothing = 1 << (bits - 1), _offset(bits, options), body.number(0)
        low = body("Round", body("Div", x, inputs[0]))
        low = body(
            "Clip", body("Add", low, body.number(offset)) if offset else low, nothing, body.number(offset or half - 1)
        )
        high = body("Clip", body("Round", body("Div", x, inputs[1])), nothing, body.number(half - 1))
        chosen = body("Where", body("GreaterOrEqual", x, inputs[2]), body("Add", high, body.number(half)), low)
        return body.positive(chosen) if not body.differentiable else body.unless_nan(x, chosen)

    def terms_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> tuple[Term, ...]:
        """One term a region; elements of the other region have the code of 0."""
        half, offset = 1 << (bits - 1), _offset(bits, options)
        zero, nothing = body.byte(offset), body.byte(0)
        low = body("Clip", body("QuantizeLinear", x, inputs[0], zero), nothing, body.byte(offset or half - 1))
        high = body("Clip", body("QuantizeLinear", x, inputs[1], nothing), nothing, body.byte(half - 1))
        above = body("GreaterOrEqual", x, inputs[2])
        return (
            Term(body("Where", above, zero, low), zero, inputs[0], bits),
            Term(body("Where", above, high, nothing), nothing, inputs[1], bits),
        )

    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Values in their region's scale."""
        half, offset = body.number(1 << (bits - 1)), _offset(bits, options)
        low = body("Mul", body("Sub", codes, body.number(offset)) if offset else codes, inputs[0])
        high = body("Mul", body("Sub", codes, half), inputs[1])
        return body("Where", body("GreaterOrEqual", codes, half), high, low)

    def codes_input(self, body: Body, codes: str) -> str:
        """Codes as floats."""
        return body.cast(codes, FLOAT)

    def grid(self, low: float, high: float, bits: int) -> Iterator[DualRegionParams]:
        """Where there are negative values PTQ4ViT's 100 scales of the positive side, else its 20 splits."""
        if low < 0:
            for factor in SHRINK:
                yield gelu_regions(bits, factor * max(high, 0.0) / (2 ** (bits - 1) - 0.5))
        else:
            for m in SPLITS:
                yield softmax_regions(bits, m)


QUANTIZE, DEQUANTIZE = define_pair("dual_region", ("float", "float", "float"))
