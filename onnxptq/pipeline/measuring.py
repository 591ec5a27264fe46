"""Measure each site: SQNR of its quantized tensor, histogram with the grid, and a short text of its parameters."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.statistics.base import Request, Several, Statistic
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import AverageRange
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.calibrators.best import AXES
from onnxptq.calibrators.search.objectives import even_noise
from onnxptq.graph.model import Model, value
from onnxptq.lower.edges import PLACES
from onnxptq.ops import schemes
from onnxptq.ops.uniform import SMALLEST, UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.report.data import Drawing
from onnxptq.running.metrics import decibels
from onnxptq.structure import Role, Site

ROWS = 512


@dataclass(frozen=True)
class Measured:
    """The measurements of one site."""

    sqnr: float | None
    drawing: Drawing | None
    words: str
    bits_per_element: float


def measure_sites(
    model: Model, plan: Plan, engine: Engine, coded: Model, moved: Container[str] = frozenset()
) -> dict[str, Measured]:
    """Every site of the plan: activations of ``model`` on the engine's samples (one walk), weights from ``coded``.

    A weight in ``moved`` was changed on purpose, so its distance from the original has no meaning.
    """
    requests = {
        key: Request(
            site.tensor,
            Several(
                Histogram(),
                RowSample(ROWS, axes(site, plan[key]), plan[key].options.get("heads")),
                *([AverageRange(AXES[plan[key].granularity])] if _by_place(plan[key]) else []),
            ),
        )
        for key, site in plan.sites.items()
        if site.role is not Role.WEIGHT
    }
    filled = engine.fill(requests, stage="measure")
    nodes, coded_nodes = model.nodes(), coded.nodes()
    found: dict[str, Measured] = {}
    for key, site in plan.sites.items():
        if site.role is Role.WEIGHT:
            held, other = (np.asarray(value(one[site.consumer].inputs[1]), np.float32) for one in (nodes, coded_nodes))
            found[key] = _weight(held, None if key in moved else other, plan[key])
        else:
            found[key] = _activation(filled[key], plan[key])
    return found


def _by_place(choice: Choice) -> bool:
    """Whether ranges are taken at run time over more than a sampled row holds."""
    return choice.scheme == "token" and choice.granularity in AXES


def axes(site: Site, choice: Choice) -> tuple[int, ...] | int:
    """The axes of a sampled row: those with a range of their own at run time, else the channels.

    Heads are an axis too if they have parameters.
    """
    return -2 if choice.granularity == "column" else (-3, -1) if "heads" in choice.options else site.axis


def _weight(weight: NDArray[np.float32], coded: NDArray[np.float32] | None, choice: Choice) -> Measured:
    counts, edges = np.histogram(weight.astype(np.float64), bins=512)  # float32 bins of nearly equal values are empty
    sqnr = _sqnr(weight, choice, coded) if coded is not None else None
    return Measured(sqnr, Drawing.of(counts, edges, _levels(choice)), _words(choice), true_bits(choice, weight.size))


def _activation(statistic: Statistic, choice: Choice) -> Measured:
    both = cast(Several, statistic)
    seen, rows = cast(Histogram, both.members[0]), cast(RowSample, both.members[1]).sample
    heads = choice.options.get("heads")
    if heads is not None and rows.size:
        rows = rows.reshape(len(rows), heads, 1, -1)
    if choice.options.get("norm") and rows.size:
        rows = rows / np.maximum(rows.max(axis=-1, keepdims=True), SMALLEST)
    sqnr, line = _sqnr(rows, choice) if rows.size else None, rows.shape[-1]
    if _by_place(choice) and rows.size:
        steps = cast(AverageRange, both.members[2])
        line = steps.line(seen.count)
        noise = float(even_noise(steps.low, steps.high, choice.bits).mean())
        sqnr = decibels(float(np.square(rows, dtype=np.float64).mean()), noise)
    return Measured(
        sqnr,
        Drawing.of(seen.counts, seen.edges, _levels(choice)),
        _words(choice),
        true_bits(choice, line),
    )


def _sqnr(x: NDArray[np.float32], choice: Choice, given: NDArray[np.float32] | None = None) -> float | None:
    """SQNR of quantizing ``x``, or of quantizing ``given`` instead of it."""
    if choice.params is None:
        return None
    error = x.astype(np.float64) - schemes()[choice.scheme].fake(x if given is None else given, choice.params)
    return decibels(float(np.square(x, dtype=np.float64).sum()), float(np.square(error).sum()))


def true_bits(choice: Choice, line: int) -> float:
    """Bits of an element, with its index and its share of the range of its line, if that is found at run time."""
    return (
        schemes()[choice.scheme].bits_per_element(choice.params, line)
        if choice.params is not None
        else float(choice.bits)
    )


def _levels(choice: Choice) -> list[float]:
    """The values of all codes, of the widest channel if there are several.

    [] if they change at run time, or from row to row.
    """
    if choice.params is None or schemes()[choice.scheme].dynamic or choice.options.get("norm") or choice.bits > 8:
        return []
    params = choice.params
    if isinstance(params, UniformParams):
        widest = int(params.scale.argmax())
        scale, zero = float(params.scale.reshape(-1)[widest]), int(params.zero.reshape(-1)[widest])
        return [(code - zero) * scale for code in range(2**choice.bits)]
    codes = np.arange(2**choice.bits, dtype=np.uint8)
    return [float(v) for v in schemes()[choice.scheme].decode(codes, params)]


def _words(choice: Choice) -> str:
    params = choice.params
    if isinstance(params, UniformParams):
        if params.scale.size > 1:
            return f"{params.scale.size} scales, {params.scale.min():.4g} to {params.scale.max():.4g}"
        return f"scale {float(params.scale.reshape(())):.4g}, zero {int(params.zero.reshape(()))}"
    line = choice.granularity if choice.granularity in ("column", *PLACES) else "row"
    return f"range of each {line} at run time" if schemes()[choice.scheme].dynamic else ""
