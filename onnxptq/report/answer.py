"""The answer of a run in five lines: the file, its size, its quality in words, its speed here, the next step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxptq.report.data import Report
from onnxptq.report.text import decibels, megabytes, times_smaller

MEASURED = (None, "onnxptq", "onnxruntime")
"""Targets whose speed onnxruntime here tells."""
MASKS = (99.0, 95.0)
"""Agreement with FP32's masks, in per cent, from which a file is as good, or only slightly worse."""
DECIBELS = (30.0, 20.0)
"""The same for SQNR in dB, where outputs hold no masks."""


@dataclass(frozen=True)
class Speed:
    """How many times faster than FP32 a file is on this machine: one thread, in turns."""

    plain: float
    """In plain onnxruntime."""
    native: float | None = None
    """With the op library; None without one, or for files that hold none of our ops."""

    @property
    def words(self) -> str:
        """With the library first, where it counts."""
        if self.native is None:
            return f"{self.plain:.2f} times FP32 here, in plain onnxruntime on one thread"
        return f"{self.native:.2f} times FP32 here, on one thread; {self.plain:.2f} without the op library"


def answer(report: Report, page: str | None = None, speed: Speed | None = None, target: str | None = None) -> str:
    """Five lines; ``page`` is the report page, if one was written, ``target`` the runtime the file was made for."""
    sizes, name = report.sizes, report.output_file or report.model
    lines = {
        "file": f"{name}: {report.bits} by recipe {report.recipe}, format {report.format}",
        "size": f"{megabytes(sizes.before)} -> {megabytes(sizes.after)}, {times_smaller(sizes)}",
        "accuracy": accuracy(report),
        "speed": speed.words if speed is not None else "not measured here",
        "next": _next(report, page, speed, target),
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


def accuracy(report: Report) -> str:
    """A verdict in words, with its figures."""
    words = ("as good as FP32", "slightly worse than FP32", "worse than FP32: look before you ship it")
    found = grade(report)
    masks, ratios = _figures(report)
    figures = [f"masks agree to {min(masks):.1f} %"] if masks else []
    figures += [f"SQNR {decibels(min(ratios))} dB" if math.isfinite(min(ratios)) else "equal outputs"] if ratios else []
    return f"{words[found]} ({', '.join(figures)})" if found is not None else "no output can be compared by numbers"


def _next(report: Report, page: str | None, speed: Speed | None, target: str | None) -> str:
    """Quality first, then speed."""
    file = report.output_file or "OUT"
    look = f"open {page}" if page else "--report OUT.html draws which layers hurt"
    if grade(report) == 2:
        return f"{look}; more bits, real samples or --exclude help"
    if speed is None and target not in MEASURED:
        return f"{look}; `onnxptq check {file} --target {target}` says what {target} makes of it"
    if speed is None:
        return f"{look}; `onnxptq bench {report.model} {file}` measures the speed"
    if speed.native is not None and speed.native < 1:
        return f"{look}; no faster here: `onnxptq inspect {file} --cost` shows what is multiplied in which width"
    if target is None and speed.native is not None and speed.plain < 1:
        return f"{look}; without our library: --target onnxruntime, web or openvino"
    if target == "onnxruntime" and speed.plain < 1:
        return f"{look}; --target onnxptq is faster, with our library"
    return f'{look}; onnxptq.session("{file}") runs it in Python'
