"""Scheme ``log_base`` (PTQ4SAM's adaptive granularity): values s * 2^(-i/tau), and an exact zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxptq.ops import edges
from onnxptq.ops.body import LARGEST, Body
from onnxptq.ops.pair import define_pair
from onnxptq.ops.scheme import F32, Array, Codes, Options, Params, Scheme
from onnxptq.ops.uniform import SHRINK, SMALLEST

TAUS = (1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class LogBaseParams(Params):
    """The largest value, and the number of steps that halve it.

    Ops read the values and edges instead of these numbers. They are made here once in float64 and rounded to float32:
    logarithms differ between runtimes, tables do not.
    """

    scale: float
    tau: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(SMALLEST <= self.scale <= LARGEST, f"scale = {self.scale} must be a normal float32")
        self.require(0 < self.tau < math.inf, f"tau = {self.tau} must be positive")

    def levels(self) -> int:
        """Number of nonzero values: all codes but the last, as far as their values are normal float32 numbers."""
        steps = np.arange(2**self.bits - 1) / self.tau
        with np.errstate(under="ignore"):
            return int(((self.scale * np.exp2(-steps)).astype(np.float32) >= np.float32(SMALLEST)).sum())

    def inputs(self) -> dict[str, Array]:
        """``values`` by code, and the descending ``edges`` between them: code = number of edges >= x."""
        index, levels = np.arange(2**self.bits - 1), self.levels()
        values = np.zeros(2**self.bits, np.float32)
        values[:levels] = (self.scale * np.exp2(-index[:levels] / self.tau)).astype(np.float32)
        with np.errstate(under="ignore"):
            between = (self.scale * np.exp2(-(np.minimum(index, levels - 1) + 0.5) / self.tau)).astype(np.float32)
        return {"values": values, "edges": between}


class LogBase(Scheme[LogBaseParams]):
    """Powers of 2^(1/tau), for softmax outputs."""

    name = "log_base"
    params = LogBaseParams
    doc = (
        "values fall by a constant factor 2^(1/tau) and the last code is exactly 0; edges (descending) lie half way "
        "in the exponent, "
        "code = the number of edges >= x."
    )
    inputs = ("values", "edges")
    ops = "LogBase"

    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """The number of edges >= x."""
        return edges.count_edges(x, inputs[1], descending=True)

    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """The table."""
        return np.asarray(inputs[0][codes], np.float32)

    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """The number of edges >= x."""
        return edges.count_edges_body(body, x, inputs[1], bits, descending=True)

    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """The table."""
        return edges.look_up_body(body, inputs[0], codes)

    def codes_input(self, body: Body, codes: str) -> str:
        """Codes as indices."""
        return edges.codes_input(body, codes)

    def grid(self, low: float, high: float, bits: int) -> Iterator[LogBaseParams]:
        """tau 1, 2, 4, each with 100 largest values up to ``high``."""
        for tau in TAUS:
            for factor in SHRINK:
                yield LogBaseParams(bits, min(max(factor * high, SMALLEST), LARGEST), tau)


QUANTIZE, DEQUANTIZE = define_pair("log_base", ("float", "float"))
