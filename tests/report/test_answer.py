"""Five lines, and a verdict in words that a bad file cannot get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxptq.report.answer import answer, grade
from onnxptq.report.data import Report


def judged(report: Report, sqnr: float, agreement: float | None = None, broken: int = 0) -> Report:
    name, one = next((n, m) for n, m in report.outputs.items() if m.sqnr is not None)
    return replace(report, outputs={name: replace(one, sqnr=sqnr, agreement=agreement, broken=broken)})


@pytest.mark.parametrize(
    ("sqnr", "agreement", "broken", "expected"),
    [
        (35.0, None, 0, 0),
        (25.0, None, 0, 1),
        (0.0, None, 0, 2),
        (float("inf"), None, 0, 0),
        (25.0, 0.995, 0, 0),
        (45.0, 0.97, 0, 1),
        (45.0, 0.80, 0, 2),
        (45.0, 0.999, 3, 2),
    ],
)
def test_masks_first_then_decibels(
    report: Report, sqnr: float, agreement: float | None, broken: int, expected: int
) -> None:
    assert grade(judged(report, sqnr, agreement, broken)) == expected


def test_five_lines(report: Report) -> None:
    lines = answer(report, "report.html").splitlines()
    assert [line.split()[0] for line in lines] == ["file", "size", "accuracy", "samples", "next"]
    assert "open report.html" in lines[-1]
    assert "sam_encoder.w6a6.onnx" in lines[0]


def test_a_bad_file_is_called_bad(report: Report) -> None:
    said = answer(judged(report, 4.0))
    assert "worse than FP32: look before you ship it (SQNR 4.0 dB)" in said
    assert "--exclude" in said


def test_nothing_to_compare(degenerate: Report) -> None:
    assert "accuracy" in answer(replace(degenerate, outputs={}))
