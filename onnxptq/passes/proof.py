"""Proof that passes kept what the model computes: outputs before and after, and the pass to blame where they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import ArtifactError
from onnxptq.graph.model import Model
from onnxptq.running.metrics import Accumulator, decibels

Outputs = Callable[[Model], Sequence[Mapping[str, NDArray[Any]]]]
"""The model's outputs on the samples that prove a pass, one mapping a sample."""


class PassError(ArtifactError):
    """A pass moved the model's outputs: it was not exact on this model. Names the pass and the output."""


def prove(states: Sequence[tuple[str, Model]], outputs: Outputs, tolerance: float) -> dict[str, float]:
    """Drift in dB by output, or a PassError that names the first pass found to have moved one."""
    # Copies: a view of an output would keep all the memory of its session beside that of the next.
    reference = [{name: np.array(array) for name, array in sample.items()} for sample in outputs(states[0][1])]
    moved, worst = drift(reference, outputs(states[-1][1]))
    if worst[1] <= tolerance:
        return moved
    good, bad = 0, len(states) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        _, there = drift(reference, outputs(states[middle][1]))
        if there[1] <= tolerance:
            good = middle
        else:
            bad, worst = middle, there
    raise PassError(
        f"pass {states[bad][0]!r}: output {worst[0]!r} moved by {worst[1]:.2g} of its maximum (allowed: "
        f"{tolerance:g}); leave this pass out"
    )


def drift(
    reference: Sequence[Mapping[str, NDArray[Any]]], other: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, float], tuple[str, float]]:
    """Signal to difference in dB by output, and the output that moved most with the largest difference relative to its
    maximum.

    Outputs that are no floats (class numbers, masks) step where a float output moves a hair: of them the share that
    differs counts.
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
    return one.max_error / (max(-one.low, one.high) or 1.0), one.signal, one.error
