"""Proof that passes keep the model's outputs: compare them before and after, and find the pass to blame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.graph.model import Model
from onnxptq.running.metrics import Accumulator, decibels

Outputs = Callable[[Model], Sequence[Mapping[str, NDArray[Any]]]]
"""The model's outputs on the samples of the proof, one mapping per sample."""


HALF_UNITS = 2
"""Units in the last place by which half-precision rounding of an output may differ before and after."""


@dataclass(frozen=True)
class Blame:
    """The first state whose outputs differ from the model's, and the size of the difference."""

    state: int
    output: str
    moved: float

    def __str__(self) -> str:
        return f"output {self.output!r} moved by {self.moved:.2g} of its maximum"


def prove(
    states: Sequence[tuple[str, Model]], outputs: Outputs, tolerance: float
) -> tuple[dict[str, float], Blame | None]:
    """Drift of the last state in dB by output, and the first state in which an output moved too far."""
    # Copies: views of outputs would keep all memory of their session beside that of the next.
    reference = [{name: np.array(array) for name, array in sample.items()} for sample in outputs(states[0][1])]
    moved, worst = drift(reference, outputs(states[-1][1]))
    if worst[1] <= tolerance:
        return moved, None
    good, bad = 0, len(states) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        _, there = drift(reference, outputs(states[middle][1]))
        if there[1] <= tolerance:
            good = middle
        else:
            bad, worst = middle, there
    return moved, Blame(bad, *worst)


def drift(
    reference: Sequence[Mapping[str, NDArray[Any]]], other: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, float], tuple[str, float]]:
    """Signal to difference in dB by output, and the output with the largest difference relative to its maximum.

    Integer and boolean outputs (class numbers, masks) jump when a float moves slightly: for them the share of differing
    elements counts. Half-precision outputs are rounded after the last layer: a difference that this rounding alone may
    cause does not count.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    worst = ("", 0.0)
    for before, after in zip(reference, other, strict=True):
        for name, wanted in before.items():
            moved, power, error = _difference(wanted, after[name])
            signal[name] = signal.get(name, 0.0) + power
            noise[name] = noise.get(name, 0.0) + error
            if not moved <= worst[1]:
                worst = (name, moved)
    return {name: decibels(signal[name], noise[name]) for name in signal}, worst


def _difference(wanted: NDArray[Any], got: NDArray[Any]) -> tuple[float, float, float]:
    """Largest difference relative to the maximum, power of the output, power of the difference."""
    if wanted.shape != got.shape:
        return math.inf, 0.0, math.inf
    if wanted.size == 0:
        return 0.0, 0.0, 0.0
    if wanted.dtype.kind != "f":
        share = float(np.mean(wanted != got))
        return share, 1.0, share
    one = Accumulator()
    one.update(wanted, got)
    if one.broken:
        return math.inf, 0.0, math.inf
    moved = one.max_error / (max(-one.low, one.high) or 1.0)
    if wanted.dtype == np.float16:
        moved = 0.0 if moved <= HALF_UNITS * np.finfo(np.float16).eps else moved
    return moved, one.signal, one.error
