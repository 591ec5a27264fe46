"""Five lines, and a verdict in words that a bad file cannot get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxptq.report.answer import Speed, answer, grade
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
    assert [line.split()[0] for line in lines] == ["file", "size", "accuracy", "speed", "next"]
    assert "open report.html" in lines[-1]
    assert "sam_encoder.w6a6.onnx" in lines[0]


def test_a_bad_file_is_called_bad(report: Report) -> None:
    said = answer(judged(report, 4.0))
    assert "worse than FP32: look before you ship it (SQNR 4.0 dB)" in said
    assert "--exclude" in said


def test_the_speed_and_what_would_be_faster(report: Report) -> None:
    good = judged(report, 40.0)
    last = [answer(good, speed=one, target=target).splitlines()[3:] for one, target in (
        (Speed(1.2, 1.8), None), (Speed(0.7, 1.8), None), (Speed(0.7), "onnxruntime"), (None, "tensorrt"), (None, None),
        (Speed(0.3, 0.7), None)
    )]  # fmt: skip
    assert last[0][0] == "speed     1.80 times FP32 here, on one thread; 1.20 without the op library"
    assert "onnxptq.session(" in last[0][1]
    assert "--target onnxruntime, web or openvino" in last[1][1]
    assert last[2][0] == "speed     0.70 times FP32 here, in plain onnxruntime on one thread"
    assert "--target onnxptq is faster" in last[2][1]
    assert last[3][0] == "speed     not measured here"
    assert "onnxptq check" in last[3][1]
    assert "onnxptq bench" in last[4][1]
    assert "no faster here: `onnxptq inspect" in last[5][1]


def test_nothing_to_compare(degenerate: Report) -> None:
    assert "accuracy" in answer(replace(degenerate, outputs={}))
