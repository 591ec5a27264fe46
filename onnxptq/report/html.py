"""The report as one page: the values of its template, computed from the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from onnxptq import display
from onnxptq.passes.base import Change
from onnxptq.report import plots
from onnxptq.report.data import Layer, Report, SiteReport
from onnxptq.report.pages import render, words
from onnxptq.report.text import count, in_decibels, megabytes, outputs_columns, seconds, selection_table

_SHAPES = {
    "linear": Markup('<circle cx="6" cy="6" r="4"/>'),
    "conv": Markup('<path d="M2 2h8v8h-8z"/>'),
    "attention": Markup('<path d="M6 0l6 6l-6 6l-6-6z"/>'),
}
_SQUARE = Markup('<path d="M0 0h12v12h-12z"/>')
_COLUMNS = ("site", "role", "part", "scheme", "range by", "bits", "true bits", "SQNR dB", "granularity", "parameters")
_NUMBERS = ("bits", "true bits", "SQNR dB")


def page(report: Report) -> str:
    """The whole page."""
    columns = outputs_columns(report.outputs)
    header, verdicts = selection_table(report.selection)
    return render(
        "report.html.j2",
        title=f"{report.output_file or report.model} - onnxptq report",
        version=report.environment.get("onnxptq", ""),
        report=report,
        tiles=list(_tiles(report)),
        outputs={"header": [name for name, _ in columns], "rows": list(zip(*(c for _, c in columns), strict=True))},
        selection={"header": ["", *header[1:]], "rows": verdicts},
        depth=Markup(plots.depth(report.layers)) if report.layers else "",
        kinds={layer.kind: _SHAPES.get(layer.kind, _SHAPES["linear"]) for layer in report.layers},
        parts=list(dict.fromkeys(layer.part.value for layer in report.layers)),
        whole_square=_SQUARE,
        steps=_steps(report.layers),
        worst=list(_worst(report)),
        changes=_by_pass(report.changes),
        passes_text=_passes_text(report),
        drawing_of=lambda data: Markup(plots.change(data)),
        filters={which: Counter(getattr(site, which).value for site in report.sites) for which in ("role", "part")},
        columns={name: name in _NUMBERS for name in _COLUMNS},
        sites=list(_rows(report.sites)),
        settings=_settings(report),
        stages=[(s.name, seconds(s.seconds), megabytes(s.peak) if s.peak else "-") for s in report.stages],
    )


def notebook(report: Report) -> str:
    """The key numbers alone, for notebooks."""
    return display.tiles(_tiles(report), report.output_file or report.model)


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    """The key numbers, each with an explanation."""
    sizes = report.sizes
    smaller = sizes.ratio >= 1
    ratio = sizes.ratio if smaller else 1 / sizes.ratio
    yield (
        f"{ratio:.2f}×",
        f"{'smaller' if smaller else 'larger'}: {megabytes(sizes.before)} to {megabytes(sizes.after)}",
    )
    measured = {name: one.sqnr for name, one in report.outputs.items() if one.sqnr is not None}
    if measured:
        name, sqnr = min(measured.items(), key=lambda item: item[1])
        among = f", the lowest of {len(measured)} outputs" if len(measured) > 1 else ""
        yield in_decibels(sqnr), f"signal to error of {name}{among}"
    agreeing = [one.agreement for one in report.outputs.values() if one.agreement is not None]
    if agreeing:
        yield f"{min(agreeing):.1%}", "mask agreement with the original: mean IoU of the two predictions"
    coded = (
        f"weights: {megabytes(sizes.weights_before)} to {megabytes(sizes.weights_after)}"
        if sizes.weights_before
        else ""
    )
    yield report.bits, coded or "weights and activations"
    yield str(len(report.sites)), "places quantized"
    if report.stages:
        yield (
            seconds(sum(stage.seconds for stage in report.stages)),
            f"on {count(report.calibration.samples, 'sample')}",
        )


def _steps(layers: Sequence[Layer]) -> list[tuple[str, float]]:
    """The three largest steps down."""
    known = [
        (layer.name, layer.metrics.sqnr)
        for layer in layers
        if layer.metrics.sqnr is not None and math.isfinite(layer.metrics.sqnr)
    ]
    steps = [(name, after - before) for (_, before), (name, after) in pairwise(known) if after < before - 1]
    return sorted(steps, key=lambda step: step[1])[:3]


def _worst(report: Report) -> Iterator[tuple[SiteReport, str, Markup]]:
    """The worst sites that have a drawing, each with a line about it."""
    for site in report.worst:
        if site.drawing is not None:
            coded = f"{site.scheme} at {site.bits} bits"
            about = ", ".join(filter(None, (words(site.role), site.part.value, coded, site.calibrator, site.params)))
            yield site, about, Markup(plots.histogram(site.drawing, label=f"Values and grid of {site.key}"))


def _by_pass(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """The changes of each pass, in the order of the passes."""
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.pass_name, []).append(change)
    return found


def _passes_text(report: Report) -> str:
    text = "Passes change weights, not the function: the outputs before and after were compared."
    if report.drift:
        moved = ", ".join(f"{name} {in_decibels(drift)}" for name, drift in report.drift.items())
        text += f" Signal to difference: {moved}."
    if any("centre" in change.data for change in report.changes):
        text += " Drawn: the range of each channel, pale before and dark after."
    return text


def _rows(sites: Sequence[SiteReport]) -> Iterator[tuple[SiteReport, str, str | None]]:
    """Sites with the sort key of their SQNR and the width of its bar."""
    top = max((s.sqnr for s in sites if s.sqnr is not None and math.isfinite(s.sqnr)), default=1.0)
    for site in sites:
        if site.sqnr is None:
            yield site, "-1e+09", None
        else:
            share = min(max(site.sqnr / top, 0.0), 1.0) if top > 0 else 0.0
            yield site, f"{max(min(site.sqnr, 1e9), -1e8):.4g}", f"{share:.0%}"


def _settings(report: Report) -> Mapping[str, Any]:
    found = ", ".join(f"{number} {name}" for name, number in report.structure.items())
    return {"samples": report.calibration.words, **report.settings, "structure": found, **report.environment}
