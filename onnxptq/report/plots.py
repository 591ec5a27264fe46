"""Drawings as inline SVG, coloured by the page's style sheet: error along depth, histograms with their grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from onnxptq.report.data import Drawing, Layer

DEPTH_WIDTH, DEPTH_HEIGHT = 1040, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 34
BARS_WIDTH, BARS_HEIGHT, RUG, AXIS = 480, 132, 12, 18
SMALL_WIDTH, SMALL_HEIGHT, SMALL_CHANNELS = 260, 56, 64
FULL_LINES = 40
"""Up to so many levels are drawn through the whole histogram; more would hide it."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that divide [low, high] into about ``count`` parts."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [0.0 if n == 0 else n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis."""
    return "0" if value == 0 else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def depth(layers: Sequence[Layer]) -> str:
    """SQNR of every layer's output in order of depth. Exact layers sit on the top edge, broken ones on the bottom."""
    finite = [s for s in (layer.metrics.sqnr for layer in layers) if s is not None and math.isfinite(s)]
    low, high = math.floor(min(finite, default=0.0) / 10) * 10, math.ceil(max(finite, default=10.0) / 10) * 10
    low, high = min(low, 0) if low < 15 else low, max(high, low + 10)
    inner_width, inner_height = DEPTH_WIDTH - LEFT - RIGHT, DEPTH_HEIGHT - TOP - BOTTOM

    def x(index: int) -> float:
        return LEFT + inner_width * (index + 0.5) / len(layers)

    def y(value: float) -> float:
        return TOP + inner_height * (1 - (min(max(value, low), high) - low) / (high - low))

    drawn = [(i, layer, layer.metrics.sqnr) for i, layer in enumerate(layers) if layer.metrics.sqnr is not None]
    parts = [_open(DEPTH_WIDTH, DEPTH_HEIGHT, "Signal to error of each layer, by depth")]
    for tick in ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{DEPTH_WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    parts.append(f'<text class="tick" x="{LEFT - 8}" y="{DEPTH_HEIGHT - 8}" text-anchor="end">dB</text>')
    parts.append(f'<text class="tick" x="{LEFT}" y="{DEPTH_HEIGHT - 8}">first layer</text>')
    parts.append(
        f'<text class="tick" x="{DEPTH_WIDTH - RIGHT}" y="{DEPTH_HEIGHT - 8}" text-anchor="end">last layer</text>'
    )
    if drawn:
        parts.append(f'<polyline class="curve" points="{" ".join(f"{x(i):.1f},{y(s):.1f}" for i, _, s in drawn)}"/>')
    for i, layer, sqnr in drawn:
        said = f"{sqnr:.1f} dB" if math.isfinite(sqnr) else "exact" if sqnr > 0 else "broken"
        label = escape(f"{layer.name}\n{layer.kind}, {layer.part.value}: {said}")
        hit = f'<circle class="hit" cx="{x(i):.1f}" cy="{y(sqnr):.1f}" r="9"/>'
        parts.append(
            f'<g class="mark {layer.part.value}"><title>{label}</title>{hit}{_mark(layer.kind, x(i), y(sqnr))}</g>'
        )
    return "".join([*parts, "</svg>"])


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "attention":
        return f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5-5.5z"/>'
    if kind == "conv":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def histogram(drawing: Drawing, *, label: str, kind: str = "bars") -> str:
    """Counts on a logarithmic scale above the grid's levels; the values that the grid clips are shaded.

    Few levels are drawn through the histogram too. ``kind`` is the style of the bars: ``bars``, ``before`` or
    ``after``.
    """
    edges, levels = drawing.edges, sorted(drawing.levels)
    if not edges:
        return ""
    low, high = min([edges[0], *levels[:1]]), max([edges[-1], *levels[-1:]])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    height = BARS_HEIGHT - RUG - AXIS

    def x(value: float) -> float:
        return BARS_WIDTH * (value - low) / (high - low)

    top = math.log1p(max(drawing.counts, default=0)) or 1.0
    parts = [_open(BARS_WIDTH, BARS_HEIGHT, label)]
    if levels:
        for start, end in ((edges[0], levels[0]), (levels[-1], edges[-1])):
            if end > start:
                parts.append(
                    f'<rect class="cut" x="{x(start):.1f}" y="0" width="{x(end) - x(start):.1f}" height="{height}"/>'
                )
    path = [f"M{x(edges[0]):.1f} {height}"]
    for left, right, held in zip(edges[:-1], edges[1:], drawing.counts, strict=True):
        level = height * (1 - 0.96 * math.log1p(held) / top)
        path.append(f"L{x(left):.1f} {level:.1f}H{x(right):.1f}")
    parts.append(f'<path class="{kind}" d="{"".join(path)}V{height}Z"/>')
    few = len(levels) <= FULL_LINES
    lines = "".join(f"M{x(v):.1f} {0 if few else height}V{height + RUG - 3}" for v in _visible(levels, high - low))
    parts.append(f'<path class="levels{" few" if few else ""}" d="{lines}"/>')
    parts.append(f'<line class="axis" x1="0" x2="{BARS_WIDTH}" y1="{height}" y2="{height}"/>')
    for tick in ticks(low, high, 6):
        anchor = "start" if x(tick) < 12 else "end" if x(tick) > BARS_WIDTH - 12 else "middle"
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{BARS_HEIGHT - 4}" text-anchor="{anchor}">{short(tick)}</text>'
        )
    return "".join([*parts, "</svg>"])


def change(data: Mapping[str, Any]) -> str:
    """Drawing of the numbers that decided a pass: channel ranges with their centres, densities, or factors; else
    empty."""
    if data.keys() >= {"low", "high", "centre"}:
        return _ranges(data["low"], data["high"], data["centre"])
    if data.keys() >= {"densities", "ranges", "peaks"} and data["densities"]:
        return _density(data["densities"][0], data["ranges"][0], data["peaks"][0])
    return _factors(data["factors"]) if data.get("factors") else ""


def _ranges(lows: Sequence[float], highs: Sequence[float], centres: Sequence[float]) -> str:
    """The range of each channel before and after its centre was subtracted."""
    before = list(zip(lows, highs, strict=True))
    return ranges(before, [(low - c, high - c) for (low, high), c in zip(before, centres, strict=True)])


def ranges(before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]) -> str:
    """The range of each channel before (pale) and after, for as many channels as can be distinguished."""
    step = -(-len(before) // SMALL_CHANNELS)
    pairs = list(zip(before[::step], after[::step], strict=True))
    top = max((abs(end) for pair in pairs for ends in pair for end in ends), default=0.0) or 1.0

    def lines(which: int, shift: float) -> str:
        drawn = ""
        for index, pair in enumerate(pairs):
            low, high = pair[which]
            x = SMALL_WIDTH * (index + shift) / len(pairs)
            drawn += f"M{x:.1f} {SMALL_HEIGHT / 2 * (1 - low / top):.1f}V{SMALL_HEIGHT / 2 * (1 - high / top):.1f}"
        return drawn

    axis = f'<line class="axis" x1="0" x2="{SMALL_WIDTH}" y1="{SMALL_HEIGHT / 2}" y2="{SMALL_HEIGHT / 2}"/>'
    head = _open(SMALL_WIDTH, SMALL_HEIGHT, f"Range of each channel before and after, up to {short(top)}")
    return f'{head}{axis}<path class="before" d="{lines(0, 0.3)}"/><path class="after" d="{lines(1, 0.7)}"/></svg>'


def _density(curve: Sequence[float], ends: Sequence[float], peaks: Sequence[float]) -> str:
    """A smooth density with its peaks marked."""
    top, (low, high) = max(curve) or 1.0, ends
    points = [
        (SMALL_WIDTH * i / max(len(curve) - 1, 1), SMALL_HEIGHT * (1 - 0.94 * value / top))
        for i, value in enumerate(curve)
    ]
    path = "".join(f"L{x:.1f} {y:.1f}" for x, y in points)
    places = [SMALL_WIDTH * (peak - low) / ((high - low) or 1.0) for peak in peaks]
    marks = "".join(f"M{x:.1f} 0V{SMALL_HEIGHT}" for x in places)
    head = _open(SMALL_WIDTH, SMALL_HEIGHT, f"Density from {short(low)} to {short(high)}")
    return (
        f'{head}<path class="bars" d="M0 {SMALL_HEIGHT}{path}V{SMALL_HEIGHT}Z"/><path class="levels" '
        f'd="{marks}"/></svg>'
    )


def _factors(factors: Sequence[float]) -> str:
    """Factors in rising order, logarithmic, 1 in the middle."""
    logs = sorted(math.log(abs(f)) if f else 0.0 for f in factors)
    top = max(map(abs, logs)) or 1.0
    x = SMALL_WIDTH / max(len(logs) - 1, 1)
    points = " ".join(f"{x * i:.1f},{SMALL_HEIGHT / 2 * (1 - 0.94 * v / top):.1f}" for i, v in enumerate(logs))
    head = _open(SMALL_WIDTH, SMALL_HEIGHT, f"Factors of the channels in rising order, up to {short(math.exp(top))}")
    axis = f'<line class="axis" x1="0" x2="{SMALL_WIDTH}" y1="{SMALL_HEIGHT / 2}" y2="{SMALL_HEIGHT / 2}"/>'
    return f'{head}{axis}<polyline class="after" points="{points}"/></svg>'


def _visible(levels: Sequence[float], span: float) -> list[float]:
    """Levels at least half a pixel from the one before."""
    kept: list[float] = []
    for level in levels:
        if not kept or level - kept[-1] >= 0.5 * span / BARS_WIDTH:
            kept.append(level)
    return kept


def _open(width: int, height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}">'
