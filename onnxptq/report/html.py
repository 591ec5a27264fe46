"""The report as one self-contained page: no file beside it, nothing fetched, readable in light and dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import pairwise

from onnxptq.passes.base import Change
from onnxptq.report import plots
from onnxptq.report.data import Layer, Report, SiteReport
from onnxptq.report.text import count, decibels, megabytes, outputs_columns, seconds, selection_table

SHAPES = {
    "linear": '<circle cx="6" cy="6" r="4"/>',
    "conv": '<path d="M2 2h8v8h-8z"/>',
    "attention": '<path d="M6 0l6 6l-6 6l-6-6z"/>',
}


def page(report: Report) -> str:
    """The whole page."""
    blocks = [
        _head(report),
        _outputs(report),
        _selection(report),
        _depth(report),
        _worst(report),
        _passes(report),
        _sites(report),
        _run(report),
    ]
    script = f"<script>\n{_file('page.js')}</script>"
    return document(f"{report.output_file or report.model} - onnxptq report", blocks, _version(report), script)


def document(title: str, blocks: Iterable[str], version: str = "", script: str = "") -> str:
    """A page of blocks, with the style sheet in it."""
    style = _file("page.css")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, '
        f'initial-scale=1">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(block for block in blocks if block)
        + f"\n<footer>Written by onnxptq{version}.</footer>\n</main>\n{script}\n</body>\n</html>\n"
    )


def _file(name: str) -> str:
    return resources.files("onnxptq.report").joinpath(name).read_text("utf-8")


def _version(report: Report) -> str:
    return f" {escape(report.environment['onnxptq'])}" if "onnxptq" in report.environment else ""


def _head(report: Report) -> str:
    name = escape(report.output_file or report.model)
    about = (
        f"{report.model}: {report.bits} by recipe {report.recipe}, format {report.format}, calibrated on "
        f"{report.calibration.source}"
    )
    tiles = "".join(
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(text)}</span></div>' for figure, text in _tiles(report)
    )
    warnings = "".join(f'<div class="warning">{escape(text)}</div>' for text in report.warnings)
    return f'<h1>{name}</h1>\n<p class="lead">{escape(about)}</p>\n<div class="tiles">{tiles}</div>\n{warnings}'


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    """The key numbers, each with what it says."""
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
        yield _decibels(sqnr), f"signal to error of {name}{among}"
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


def _outputs(report: Report) -> str:
    if not report.outputs:
        return ""
    columns = outputs_columns(report.outputs)
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    held = report.calibration.held_back
    where = f"{count(held, 'sample')} that calibration never saw" if held else "the calibration samples themselves"
    body = table([name for name, _ in columns], rows, numbers=range(1, len(columns)))
    return section(
        "Outputs", f"Measured against the original model on {where}.", f'<div class="card wide">{body}</div>'
    )


def _depth(report: Report) -> str:
    if not report.layers:
        return ""
    kinds = dict.fromkeys(layer.kind for layer in report.layers)
    parts = dict.fromkeys(layer.part.value for layer in report.layers)
    shapes = {kind: SHAPES.get(kind, SHAPES["linear"]) for kind in kinds}
    entries = [
        f'<span><svg viewBox="0 0 12 12" style="fill:var(--soft)">{shape}</svg>{escape(kind)}</span>'
        for kind, shape in shapes.items()
    ]
    if len(parts) > 1:
        square = '<path d="M0 0h12v12h-12z"/>'
        entries += [
            f'<span><svg viewBox="0 0 12 12" style="fill:var(--{part})">{square}</svg>{part}</span>' for part in parts
        ]
    text = (
        "Signal to error of the output of each layer, with everything before it quantized. "
        "Where the line steps down, that layer lost the most. Point at a mark for its name."
    )
    legend = f'<div class="legend">{"".join(entries)}</div>'
    return section(
        "Error along the depth",
        text,
        f'<div class="card"><div class="wide '
        f'depth">{plots.depth(report.layers)}</div>{legend}{_steps(report.layers)}</div>',
    )


def _steps(layers: Sequence[Layer]) -> str:
    """The three largest steps down."""
    known = [
        (layer, layer.metrics.sqnr)
        for layer in layers
        if layer.metrics.sqnr is not None and math.isfinite(layer.metrics.sqnr)
    ]
    steps = sorted(
        ((after - before, layer.name) for (_, before), (layer, after) in pairwise(known) if after < before - 1),
        key=lambda s: s[0],
    )
    if not steps:
        return ""
    named = ", ".join(f"<code>{escape(name)}</code> ({step:.1f} dB)" for step, name in steps[:3])
    return f'<p class="steps">Largest steps down: {named}</p>'


def _worst(report: Report) -> str:
    drawn = [site for site in report.worst if site.drawing is not None]
    if not drawn:
        return ""
    text = (
        "Distribution of the values (logarithmic counts) and the levels they are rounded to; the shaded "
        "ends are cut off by the grid."
    )
    return section("The worst sites", text, f'<div class="sites">{"".join(_site_card(site) for site in drawn)}</div>')


def _site_card(site: SiteReport) -> str:
    about = ", ".join(
        t
        for t in (_name(site.role), site.part.value, f"{site.scheme} at {site.bits} bits", site.calibrator, site.params)
        if t
    )
    assert site.drawing is not None
    return (
        f'<div class="card site"><header><code>{escape(site.key)}</code><b>{_decibels(site.sqnr)}</b></header>'
        f'<p class="soft">{escape(about)}</p>'
        f"{plots.histogram(site.drawing, label=f'Values and grid of {site.key}')}</div>"
    )


def _selection(report: Report) -> str:
    if not report.selection:
        return ""
    header, rows = selection_table(report.selection)
    text = (
        "Agreement of each candidate's outputs with those of the original, on samples that calibration did not see "
        "where there were enough; the best was kept."
    )
    return section(
        "Selection",
        text,
        f'<div class="card wide">{table(["", *header[1:]], rows, numbers=range(1, len(header) - 1))}</div>',
    )


def _passes(report: Report) -> str:
    if not report.changes:
        return ""
    blocks = []
    for name in dict.fromkeys(change.pass_name for change in report.changes):
        own = [change for change in report.changes if change.pass_name == name]
        done = sum(change.done for change in own)
        left = f", {len(own) - done} left alone" if done < len(own) else ""
        rows = "".join(_change(change) for change in own)
        said = f'<b>{escape(name)}</b> <span class="soft">{count(done, "place")} changed{left}</span>'
        blocks.append(f"<details><summary>{said}</summary><table>{rows}</table></details>")
    text = "Passes change weights, not the function: the outputs before and after were compared."
    if report.drift:
        text += (
            f" Signal to difference: {', '.join(f'{name} {_decibels(moved)}' for name, moved in report.drift.items())}."
        )
    if any("centre" in change.data for change in report.changes):
        text += " Drawn: the range of each channel, pale before and dark after."
    return section("What each pass did", text, f'<div class="card">{"".join(blocks)}</div>')


def _change(change: Change) -> str:
    """One row: where, what, and the numbers behind it as a small drawing."""
    drawn = plots.change(change.data)
    cell = f'<td class="small">{drawn}</td>' if drawn else "<td></td>"
    return f'<tr><td class="where"><code>{escape(change.where)}</code></td><td>{escape(change.what)}</td>{cell}</tr>'


def _sites(report: Report) -> str:
    header = ["site", "role", "part", "scheme", "range by", "bits", "true bits", "SQNR dB", "granularity", "parameters"]
    numbers = {5, 6, 7}
    top = max((s.sqnr for s in report.sites if s.sqnr is not None and math.isfinite(s.sqnr)), default=1.0)
    heads = "".join(
        f"<th{' class=number' if i in numbers else ''}><button>{name}</button></th>" for i, name in enumerate(header)
    )
    rows = "".join(_site_row(site, top) for site in report.sites)
    roles = Counter(site.role.value for site in report.sites)
    parts = Counter(site.part.value for site in report.sites)
    controls = (
        '<div class="filter"><input id="text" placeholder="Filter by name, scheme, ..." aria-label="Filter">'
        f'<select id="role" aria-label="Role"><option value="">all roles</option>{_options(roles)}</select>'
        f'<select id="part" aria-label="Part"><option value="">all parts</option>{_options(parts)}</select>'
        '<span class="soft" id="shown"></span></div>'
    )
    held = f'<div class="wide"><table id="sites"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    text = (
        "Every quantizer of the model. SQNR is that of the tensor after coding; true bits count scales, "
        "tables and indices too."
    )
    return section("All sites", text, f'<div class="card">{controls}{held}</div>')


def _site_row(site: SiteReport, top: float) -> str:
    sqnr = -1e9 if site.sqnr is None else max(min(site.sqnr, 1e9), -1e8)
    share = 0.0 if site.sqnr is None else min(max(site.sqnr / top, 0.0), 1.0) if top > 0 else 0.0
    meter = f'<span class="meter"><i style="width:{share:.0%}"></i></span>' if site.sqnr is not None else ""
    return (
        f'<tr data-role="{site.role.value}" data-part="{site.part.value}"><td><code>{escape(site.key)}</code></td>'
        f"<td>{_name(site.role)}</td><td>{site.part.value}</td><td>{escape(site.scheme)}</td><td>{escape(site.calibrator)}</td>"
        f"<td class=number>{site.bits}</td><td class=number>{site.bits_per_element:.2f}</td>"
        f'<td class=number data-v="{sqnr:.4g}">{meter}{decibels(site.sqnr)}</td>'
        f'<td>{escape(site.granularity)}</td><td class="mono">{escape(site.params)}</td></tr>'
    )


def _run(report: Report) -> str:
    samples = report.calibration.words
    found = ", ".join(f"{number} {name}" for name, number in report.structure.items())
    cards = [
        ("Settings", _definitions({"samples": samples, **report.settings, "structure": found, **report.environment}))
    ]
    if report.stages:
        rows = [
            (stage.name, seconds(stage.seconds), megabytes(stage.peak) if stage.peak else "-")
            for stage in report.stages
        ]
        cards.append(("Stages", table(["stage", "time", "peak memory so far"], rows, numbers=(1, 2))))
    if report.notes:
        cards.append(("Notes", "".join(f"<p>{escape(note)}</p>" for note in report.notes)))
    held = "".join(f'<div class="card"><h3>{title}</h3>{body}</div>' for title, body in cards)
    return f'<h2>How it was made</h2>\n<div class="pair">{held}</div>'


def section(title: str, text: str, body: str) -> str:
    """A heading, a sentence about what follows, and that."""
    return f'<h2>{title}</h2>\n<p class="soft">{escape(text)}</p>\n{body}'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """Cells as text; ``numbers`` are the columns set to the right."""
    right = set(numbers)
    kinds = [" class=number" if i in right else "" for i in range(len(header))]
    heads = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _definitions(entries: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in entries.items() if text)
        + "</dl>"
    )


def _options(counted: Mapping[str, int]) -> str:
    return "".join(
        f'<option value="{name}">{name.replace("_", " ")} ({number})</option>' for name, number in counted.items()
    )


def _name(role: str) -> str:
    return str(role).replace("_", " ")


def _decibels(sqnr: float | None) -> str:
    return decibels(sqnr) + (" dB" if sqnr is not None and math.isfinite(sqnr) else "")
