"""The report as text, for the terminal at the end of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from onnxptq.report.data import Report, Sizes, Verdict
from onnxptq.running.metrics import Metrics


def summary(report: Report) -> str:
    """Size, settings, SQNR per output and the worst ten sites; warnings were printed when they arose."""
    blocks = [_head(report), outputs_table(report.outputs)]
    if report.selection:
        header, rows = selection_table(report.selection)
        blocks.append(table(header, rows, right=range(1, len(header))))
    if report.worst:
        rows = [
            [site.key, site.role.value, site.scheme, site.calibrator, str(site.bits), decibels(site.sqnr)]
            for site in report.worst
        ]
        blocks.append(table(["worst sites", "role", "scheme", "calibrator", "bits", "SQNR dB"], rows, right=(4, 5)))
    if report.stages:
        blocks.append(_stages(report))
    if report.notes:
        blocks.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(blocks)


def _head(report: Report) -> str:
    sizes = report.sizes
    title = f"{report.model} -> {report.output_file}" if report.output_file else report.model
    roles = Counter(site.role.value for site in report.sites)
    done = Counter(change.pass_name for change in report.changes if change.done)
    lines = [
        ("size", f"{megabytes(sizes.before)} -> {megabytes(sizes.after)}, {times_smaller(sizes)}"),
        ("quantized", f"{report.bits} by recipe {report.recipe}, format {report.format}"),
        ("calibration", report.calibration.words),
        ("sites", f"{len(report.sites)}: " + ", ".join(f"{n} {role.replace('_', ' ')}" for role, n in roles.items())),
        ("passes", ", ".join(f"{name} {n}" for name, n in done.items()) or "nothing to change"),
        ("settings", ", ".join(f"{key} {value}" for key, value in report.settings.items())),
    ]
    return "\n".join([title, *(f"  {name:<13}{text}" for name, text in lines if text)])


def outputs_table(outputs: Mapping[str, Metrics], *, title: str = "output") -> str:
    """Metrics of each output."""
    columns = outputs_columns(outputs, title=title)
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    return table([name for name, _ in columns], rows, right=range(1, len(columns)))


def outputs_columns(outputs: Mapping[str, Metrics], *, title: str = "output") -> list[tuple[str, list[str]]]:
    """Header and cells of each column; columns without a figure are left out."""
    columns: list[tuple[str, list[str]]] = [(title, list(outputs))]
    held = list(outputs.values())
    if any(one.sqnr is not None for one in held):
        columns.append(("SQNR dB", [decibels(one.sqnr) for one in held]))
        columns.append(("worst sample", [decibels(one.worst) for one in held]))
        columns.append(("cosine", [f"{one.cosine:.5f}" if one.cosine is not None else "-" for one in held]))
    columns.append(("max error", [f"{one.max_error:.3g}" for one in held]))
    if any(one.sqnr is None for one in held):
        columns.append(("equal", [f"{one.equal:.2%}" for one in held]))
    if any(one.agreement is not None for one in held):
        columns.append(
            ("mask agreement", [f"{one.agreement:.2%}" if one.agreement is not None else "-" for one in held])
        )
    if any(one.broken for one in held):
        columns.append(("NaN or inf", [str(one.broken) for one in held]))
    return columns


def selection_table(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: scores of the candidates that the selection compared."""
    masks, ratios = (any(getattr(v, figure) is not None for v in verdicts) for figure in ("agreement", "sqnr"))
    header = ["candidate", *(["mask agreement %"] if masks else []), *(["SQNR dB"] if ratios else []), ""]
    rows = [
        [
            v.candidate,
            *([decibels(v.agreement)] if masks else []),
            *([decibels(v.sqnr)] if ratios else []),
            "kept" if v.kept else "",
        ]
        for v in verdicts
    ]
    return header, rows


def _stages(report: Report) -> str:
    times = ", ".join(f"{stage.name} {seconds(stage.seconds)}" for stage in report.stages)
    peaks = [stage.peak for stage in report.stages if stage.peak is not None]
    return f"time: {times}" + (f"; peak memory {megabytes(max(peaks))}" if peaks else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Aligned columns; those in ``right`` are flushed right."""
    flushed = set(right)
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i in flushed else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A Markdown table; columns in ``right`` are flushed right."""
    flushed = set(right)
    rule = ["---:" if i in flushed else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def decibels(value: float | None) -> str:
    """One decimal; ``exact`` where there is no error, ``-`` where there is no figure."""
    if value is None:
        return "-"
    return "exact" if value == math.inf else f"{value:.1f}"


def megabytes(size: int) -> str:
    """Bytes as kB, MB or GB (powers of ten, as file managers show them)."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}" if size < 10 * scale else f"{size / scale:.1f} {unit}"
    return f"{size / 1000:.1f} kB"


def seconds(value: float) -> str:
    """Seconds, or minutes and hours where there are many."""
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 120 else f"{value:.1f} s"


def times_smaller(sizes: Sizes) -> str:
    """The factor, with its direction."""
    return f"{sizes.ratio:.2f} times smaller" if sizes.ratio >= 1 else f"{1 / sizes.ratio:.2f} times larger"


def count(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def in_decibels(value: float | None) -> str:
    """``decibels`` with the unit, where there is a number."""
    return decibels(value) + (" dB" if value is not None and math.isfinite(value) else "")
