"""Scheme ``outlier_retained`` (PTQ4RIS' RORQ): groups by magnitude, each with its own affine code.

Thresholds are static, membership is decided for each element, and the group's index stands in the upper bits of the
code. Elements above every threshold belong to the last group (the published code puts them into group 0 and clips them
there). Decoded values are not monotone: just beyond a threshold the coarser code of the next group may round to a
smaller value than the last one of the finer code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops import edges
from onnxptq.ops.body import FLOAT, INT32, UINT8, UINT16, Body
from onnxptq.ops.pair import define_pair
from onnxptq.ops.scheme import F32, FLOATS, UINT8S, Array, Codes, Options, Params, Scheme
from onnxptq.ops.uniform import affine, affine_codes, affine_codes_body, affine_values, affine_values_body

LEAST = 16
"""Groups with fewer elements join the group before: their deviation is unreliable."""


class Group(NamedTuple):
    """The elements of magnitude up to ``threshold`` that belong to no earlier group."""

    threshold: float
    low: float
    high: float
    elements: int


@dataclass(frozen=True, eq=False)
class OutlierRetainedParams(Params):
    """Ascending thresholds between groups, and each group's scale and zero-point."""

    thresholds: F32 = field(metadata=FLOATS)
    scales: F32 = field(metadata=FLOATS)
    zeros: NDArray[np.uint8] = field(metadata=UINT8S)

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = self.scales.size
        self.require(1 <= groups <= 256, "there must be 1 to 256 groups")
        shapes = (self.thresholds.shape, self.scales.shape, self.zeros.shape)
        self.require(
            shapes == ((groups - 1,), (groups,), (groups,)),
            "each group but the last needs a threshold, each a scale and a zero",
        )
        self.require(bool((self.scales > 0).all()), "scales must be positive")
        self.require(bool((self.zeros < 2**self.bits).all()), f"zeros must fit {self.bits} bits")
        self.require(bool((np.diff(self.thresholds) >= 0).all()), "thresholds must ascend")

    def attributes(self) -> dict[str, int | str]:
        """The number of groups."""
        return {"groups": self.scales.size}


def merge_tails(groups: Sequence[Group], least: int = LEAST) -> list[Group]:
    """The groups, with small ones at the end joined to the one before."""
    kept = list(groups)
    while len(kept) > 1 and kept[-1].elements < least:
        last, before = kept.pop(), kept.pop()
        kept.append(
            Group(
                last.threshold, min(last.low, before.low), max(last.high, before.high), last.elements + before.elements
            )
        )
    return kept


def from_groups(groups: Sequence[Group], bits: int, *, least: int = LEAST) -> OutlierRetainedParams:
    """Parameters of calibrated groups, in ascending order of their thresholds."""
    kept = merge_tails(groups, least)
    codes = affine([g.low for g in kept], [g.high for g in kept], bits)
    return OutlierRetainedParams(
        bits, np.asarray([g.threshold for g in kept[:-1]], np.float32), codes.scale, codes.zero
    )


def index_bits(groups: int) -> int:
    """Bits of a group's index."""
    return (groups - 1).bit_length()


class OutlierRetained(Scheme[OutlierRetainedParams]):
    """Affine codes per group of magnitude, for the inputs of text layers."""

    name = "outlier_retained"
    params = OutlierRetainedParams
    doc = (
        "group = the number of thresholds < |x|; code = group * 2^bits + clip(rint(x / scales[group]) + "
        "zeros[group], 0, 2^bits - 1), "
        "in uint16 where bits and index bits exceed 8."
    )
    inputs = ("thresholds", "scales", "zeros")
    attributes: ClassVar[Mapping[str, int | str]] = {"groups": 1}
    ops = "OutlierRetained"
    code_types = ("uint8", "uint16")
    monotone = False

    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """Group index above the group's code."""
        group = np.where(np.isnan(x), 0, np.searchsorted(inputs[0], np.abs(x)))
        codes = affine_codes(x, inputs[1][group], inputs[2][group], bits)
        whole = (group << bits) | codes
        return whole.astype(np.uint16) if self.code_type(bits, options) == UINT16 else whole.astype(np.uint8)

    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """Values by the group's scale and zero-point."""
        group = codes >> bits
        return affine_values(codes & np.asarray(2**bits - 1, codes.dtype), inputs[1][group], inputs[2][group])

    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Group index above the group's code, as INT32."""
        group = self._group_body(body, x, inputs, options)
        codes = body.cast(affine_codes_body(body, x, *self._of_group(body, group, inputs), bits), INT32)
        return body("Add", body("Mul", group, body.integer(1 << bits)), codes)

    def fake_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Without packing and unpacking the group's index: fewer steps, all of them differentiable."""
        scale, zero = self._of_group(body, self._group_body(body, x, inputs, options), inputs)
        return affine_values_body(body, affine_codes_body(body, x, scale, zero, bits), scale, zero)

    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """Values by the group's scale and zero-point."""
        width = body.integer(1 << bits)
        scale, zero = self._of_group(body, body("Div", codes, width), inputs)
        return affine_values_body(body, body.cast(body("Mod", codes, width), FLOAT), scale, zero)

    def _group_body(self, body: Body, x: str, inputs: Sequence[str], options: Options) -> str:
        """The group of each element, as INT32."""
        group, magnitude = body.integer(0), body("Abs", x)
        for i in range(options["groups"] - 1):
            above = body("Greater", magnitude, body("Gather", inputs[0], body.integer(i)))
            group = body("Add", group, body.cast(above, INT32))
        return group

    def _of_group(self, body: Body, group: str, inputs: Sequence[str]) -> tuple[str, str]:
        return edges.look_up_body(body, inputs[1], group), edges.look_up_body(body, inputs[2], group)

    def codes_input(self, body: Body, codes: str) -> str:
        """Codes as INT32."""
        return body.cast(codes, INT32)

    def code_type(self, bits: int, options: Options) -> int:
        """UINT16 where a byte is too small."""
        return UINT8 if bits + index_bits(options["groups"]) <= 8 else UINT16

    def grid(self, low: float, high: float, bits: int) -> Iterator[OutlierRetainedParams]:
        """1 to 4 groups, each 2 to 16 times as wide as the one before."""
        largest = max(-low, high, 0.0)
        for count in (1, 2, 3, 4):
            for ratio in (0.5, 0.25, 0.125, 0.0625) if count > 1 else (1.0,):
                ends = [largest * ratio ** (count - 1 - i) for i in range(count)]
                yield from_groups([Group(t, max(low, -t), min(high, t), LEAST) for t in ends], bits)

    def bits_per_element(self, p: OutlierRetainedParams, line: int) -> float:
        """The code and its group's index."""
        return float(p.bits + index_bits(p.scales.size))


QUANTIZE, DEQUANTIZE = define_pair("outlier_retained", ("float", "float", "uint8"))
