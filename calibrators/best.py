"""best: of several calibrators' choices, the one with the least error of the consumer's output on sampled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.coroutine import Coroutine, asked
from onnxptq.calibration.statistics.base import F32, Observed, Request, Several, Statistic
from onnxptq.calibration.statistics.ranges import AverageRange
from onnxptq.calibration.statistics.rows import RowSample, Whole
from onnxptq.calibrators.base import REGISTRY, WEIGHTED, Calibrator, Search, as_matrix
from onnxptq.calibrators.search.objectives import charge, even_noise, few_digits, output_error
from onnxptq.errors import InputError, nearest
from onnxptq.ops import schemes
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site

ROWS = 512
AXES: dict[str, int | None] = {"channel": 1, "sample": None}
"""Axis of the ranges within a sample, where a convolution computes ranges at run time."""
SCHEMES = {"token": ("token", "row"), "rorq": ("outlier_retained", "tensor")}
"""Scheme and granularity of the candidates that need others than the choice's own."""


class Best(Calibrator):
    """Option ``candidates`` names calibrators (of static ranges, ``token``, or ``rorq``). The error is |(x - x^) W|^2
    for inputs of linears and convolutions (each place of the kernel on its own), |x - x^|^2 for others. Where a
    convolution computes ranges of whole channels or samples at run time, no rows can be compared: its error is
    estimated as uniform noise over the mean step. The choice returned names the winner."""

    name = "best"
    options: ClassVar[Mapping[str, Any]] = {"candidates": ()}

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The checked options; candidates are other calibrators, whose options are checked too."""
        found = super().settings(given)
        names = found["candidates"]
        known = [name for name in REGISTRY if name != self.name]
        unknown = [name for name in names if name not in known]
        if not names or unknown:
            near = nearest(str(unknown[0]), known) if unknown else ""
            raise InputError(f"calibrator 'best' needs `candidates`, names of others; got {list(names)!r}{near}")
        for name in names:
            REGISTRY[name].settings(given)
        return found

    def search(self, site: Site, choice: Choice) -> Search:
        """As many walks as the longest candidate takes."""
        tried_names = self.settings(choice.options)["candidates"]
        dynamic = site.role is not Role.CONV_INPUT or "geometry" in choice.options
        names = [name for name in tried_names if choice.bits in REGISTRY[name].widths and (dynamic or name != "token")]
        if not names:
            raise InputError(f"site {site.key}: none of the candidates {list(tried_names)!r} is for {choice.bits} bits")
        options = {key: value for key, value in choice.options.items() if key != "candidates"}
        running: dict[str, Coroutine[Request, Statistic, Choice]] = {}
        for name in names:
            tried = replace(choice, calibrator=name, options=options)
            scheme, granularity = SCHEMES.get(name, (choice.scheme, choice.granularity))
            choice_of = replace(tried, scheme=scheme, granularity=granularity)
            running[name] = Coroutine(REGISTRY[name].search(site, choice_of))
        rows = RowSample(ROWS, site.axis)
        by_place = choice.options.get("geometry") in AXES and "token" in names
        steps = AverageRange(AXES[choice.options["geometry"]]) if by_place else None
        wanted: list[Observed] = [rows] if steps is None else [rows, steps]
        while (filled := asked(running)) or wanted:
            together = [cast(Observed, one.statistic) for one in filled.values() if one.tensor == site.tensor]
            if wanted or together:
                yield Request(site.tensor, Several(*wanted, *together))
            for one in filled.values():
                if one.tensor != site.tensor:
                    yield one
            wanted = []
            for name, one in filled.items():
                running[name].send(one.statistic)
        weight = None
        if site.role in WEIGHTED:
            held = cast(Whole, (yield Request(site.consumer, Whole()))).value
            weight = as_matrix(held, rows.sample.shape[1])
        answers = {name: one.result for name, one in running.items()}
        errors = {name: _error(rows.sample, answers[name], weight) for name in names}
        if steps is not None:
            noise = _even_noise(steps, choice.bits, weight, rows.sample.shape[1])
            token, line = answers["token"], steps.line(rows.seen * rows.sample.shape[1])
            assert token.params is not None
            errors["token"] = float(few_digits(charge(token.scheme, token.params, line) * noise))
        winner = min(names, key=lambda name: errors[name])
        return replace(answers[winner], options={**options, "errors": errors})


def _error(rows: F32, choice: Choice, weight: F32 | None) -> float:
    """Mean squared error of the output, charged for the bits that an element takes beyond the choice's width.

    The parameters of channels broadcast along rows whatever the tensor's rank.
    """
    assert choice.params is not None
    held: dict[str, Any] = {
        name: array.reshape(-1) if array.ndim else array for name, array in choice.params.inputs().items()
    }
    scheme = schemes()[choice.scheme]
    coded = scheme.fake(rows, replace(choice.params, **held))
    error = charge(choice.scheme, choice.params, rows.shape[1]) * output_error(rows, coded, weight)
    return float(few_digits(error / max(rows.size, 1)))


def _even_noise(steps: AverageRange, bits: int, weight: F32 | None, channels: int) -> float:
    """Mean squared error of codes with uniform noise over the mean step, by channel or over all."""
    weights = np.ones(channels) if weight is None else np.square(weight, dtype=np.float64).sum(axis=1)
    return float(np.sum(even_noise(steps.low, steps.high, bits) * weights) / channels)
