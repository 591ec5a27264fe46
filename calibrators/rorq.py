"""rorq: groups by magnitude for outlier-retained codes (PTQ4RIS, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import F64, Request
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibrators.base import Calibrator, Search, require_values
from onnxptq.calibrators.omse import best_candidate, of_histogram
from onnxptq.errors import InputError
from onnxptq.ops.outlier_retained import Group, from_groups, merge_tails
from onnxptq.plan import Choice
from onnxptq.structure import Site

BINS = 1 << 16
"""Thresholds lie on the bins' edges, and outliers may be hundreds of deviations away."""
GROUPS = 4
ROUNDS = 10
"""Most groups, as published."""
BEST = "best"
RULES = ("mean+3sd", "mean", "median+mad", "confidence", BEST)
NORMAL_99 = 2.5758293035489004
RANGES = ("grid", "minmax")


class Rorq(Calibrator):
    """Scheme ``outlier_retained``: each threshold closes a group; larger magnitudes go on to the next threshold.

    The threshold is mean + 3 deviations of the magnitudes that are left, zeros not counted. Options: ``rule`` (Table
    IV: the mean alone, median + 3 median absolute deviations, or the upper end of the 99 % normal interval instead;
    ``best``: the one with the least squared error), ``groups`` (at most so many: their index costs bits), ``ranges`` of
    the groups (``grid``: of least squared error, as the paper has it; ``minmax``: as the published code does),
    ``least`` (elements; smaller groups at the end join the one before).
    """

    name = "rorq"
    options: ClassVar[Mapping[str, Any]] = {"rule": RULES[0], "ranges": RANGES[0], "groups": GROUPS, "least": 16}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"rule": RULES, "ranges": RANGES}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"groups": (1, 256), "least": (1, 2**31)}

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        given = self.settings(choice.options)
        rule, ranges, limit, least = (given[key] for key in ("rule", "ranges", "groups", "least"))
        if choice.scheme != "outlier_retained":
            raise InputError(
                f"site {site.key}: calibrator 'rorq' is for scheme 'outlier_retained', not {choice.scheme!r}"
            )
        seen = cast(Histogram, (yield Request(site.tensor, Histogram(BINS))))
        require_values(site, seen.count)
        tried = []
        for name in _RULES if rule == BEST else (rule,):
            found = groups(seen, name, limit, least)
            if ranges == "grid":
                found = [_tightened(seen, found, place, choice) for place in range(len(found))]
            tried.append(from_groups(found, choice.bits, least=1))
        return replace(choice, params=tried[0] if len(tried) == 1 else best_candidate(seen, choice, tried))


def groups(seen: Histogram, rule: str, limit: int, least: int) -> list[Group]:
    """The groups by one of the rules, with the extrema of their members as ranges."""
    half = seen.bins // 2
    counts, width = (seen.counts[half:] + seen.counts[half - 1 :: -1]).astype(np.float64), seen.width
    middle: F64 = (np.arange(half) + 0.5) * np.float64(width)
    largest = max(-seen.low, seen.high)
    found: list[Group] = []
    start = 0
    for _ in range(min(limit, ROUNDS)):
        left = counts[start:]
        if not left.any():
            break
        threshold = _RULES[rule](middle[start:], left)
        stop = min(max(int(np.ceil(threshold / width)), start + 1), half)
        if len(found) + 1 == min(limit, ROUNDS):
            stop = half
        inside = np.flatnonzero(left[: stop - start])
        if len(inside):
            low, high = _ends(seen, start, stop)
            found.append(Group(min(stop * width, largest), low, high, int(left[: stop - start].sum())))
        start = stop
    return merge_tails(found, least)


def _ends(seen: Histogram, start: int, stop: int) -> tuple[float, float]:
    """Extrema of the magnitudes in the bins from ``start`` to ``stop``: outer edges of filled bins."""
    half = seen.bins // 2
    above, below = (
        np.flatnonzero(seen.counts[half + start : half + stop]),
        np.flatnonzero(seen.counts[half - stop : half - start]),
    )
    high = (start + above[-1] + 1) * seen.width if len(above) else 0.0
    low = -(stop - below[0]) * seen.width if len(below) else 0.0
    return max(low, seen.low), min(high, seen.high)


def _tightened(seen: Histogram, found: list[Group], place: int, choice: Choice) -> Group:
    """The group with the range of least squared error of its members."""
    group, half = found[place], seen.bins // 2
    start = round(found[place - 1].threshold / seen.width) if place else 0
    stop = half if place == len(found) - 1 else round(group.threshold / seen.width)
    members = Histogram(seen.bins)
    members.counts[half + start : half + stop] = seen.counts[half + start : half + stop]
    members.counts[half - stop : half - start] = seen.counts[half - stop : half - start]
    members.exponent, members.low, members.high, members.count = seen.exponent, group.low, group.high, group.elements
    low, high = of_histogram(members, choice)
    return group._replace(low=float(low[0]), high=float(high[0]))


def _moments(x: F64, counts: F64) -> tuple[float, float]:
    mean = float(counts @ x / counts.sum())
    return mean, float(np.sqrt(counts @ (x - mean) ** 2 / max(counts.sum() - 1, 1)))


def _median(x: F64, counts: F64) -> float:
    order = np.argsort(x, kind="stable")
    return float(x[order][np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)])


def _median_and_deviation(x: F64, counts: F64) -> float:
    median = _median(x, counts)
    return median + 3 * _median(np.abs(x - median), counts)


_RULES: dict[str, Callable[[F64, F64], float]] = {
    "mean+3sd": lambda x, counts: _moments(x, counts)[0] + 3 * _moments(x, counts)[1],
    "mean": lambda x, counts: _moments(x, counts)[0],
    "median+mad": _median_and_deviation,
    "confidence": lambda x, counts: _moments(x, counts)[0] + NORMAL_99 * _moments(x, counts)[1],
}
