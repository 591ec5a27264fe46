"""The answer of a run in five lines: the file, its size, its quality in words, the samples, the next step."""

from __future__ import annotations

import math

from onnxptq.report.data import Report
from onnxptq.report.text import decibels, megabytes, times_smaller

MASKS = (99.0, 95.0)
"""Agreement with FP32's masks, in per cent, from which a file is as good, or only slightly worse."""
DECIBELS = (30.0, 20.0)
"""The same for SQNR in dB, where outputs hold no masks."""


def answer(report: Report, page: str | None = None) -> str:
    """Five lines; ``page`` is the report page, if one was written."""
    sizes, name = report.sizes, report.output_file or report.model
    lines = {
        "file": f"{name}: {report.bits} by recipe {report.recipe}, format {report.format}",
        "size": f"{megabytes(sizes.before)} -> {megabytes(sizes.after)}, {times_smaller(sizes)}",
        "accuracy": _accuracy(report),
        "samples": report.calibration.words,
        "next": _next(report, page),
    }
    return "\n".join(f"{label:<10}{text}" for label, text in lines.items())


def grade(report: Report) -> int | None:
    """0: as good as FP32, 1: slightly worse, 2: worse; by the worst output. None if there is no comparison."""
    masks, ratios = _figures(report)
    if any(one.broken for one in report.outputs.values()):
        return 2
    for values, (good, fair) in ((masks, MASKS), (ratios, DECIBELS)):
        if values:
            worst = min(values)
            return 0 if worst >= good else 1 if worst >= fair else 2
    return None


def _figures(report: Report) -> tuple[list[float], list[float]]:
    """Mask agreement in per cent, and SQNR in dB, of each output that has it."""
    masks = [100 * one.agreement for one in report.outputs.values() if one.agreement is not None]
    return masks, [one.sqnr for one in report.outputs.values() if one.sqnr is not None]


def _accuracy(report: Report) -> str:
    words = ("as good as FP32", "slightly worse than FP32", "worse than FP32: look before you ship it")
    found = grade(report)
    masks, ratios = _figures(report)
    figures = [f"masks agree to {min(masks):.1f} %"] if masks else []
    figures += [f"SQNR {decibels(min(ratios))} dB" if math.isfinite(min(ratios)) else "equal outputs"] if ratios else []
    return f"{words[found]} ({', '.join(figures)})" if found is not None else "no output can be compared by numbers"


def _next(report: Report, page: str | None) -> str:
    look = f"open {page}" if page else "--report OUT.html draws which layers hurt"
    if grade(report) == 2:
        return f"{look}; more bits, real samples or --exclude help"
    return f"{look}; `onnxptq bench {report.model} {report.output_file or 'OUT'}` measures the speed here"
