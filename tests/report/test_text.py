from __future__ import annotations

import math

import pytest

from onnxptq.report import text
from onnxptq.report.data import Report, Sizes


def test_summary_holds_the_key_numbers(report: Report) -> None:
    said = text.summary(report)
    for part in (
        "sam_encoder.onnx -> sam_encoder.w6a6.onnx",
        "342.3 MB -> 69.8 MB, 4.90 times smaller",
        "w6a6 by recipe auto, format native",
        "32 images of photos: 32 to calibrate, 4 to measure",
        "center-keys 12, bimodal 1, smooth 1, fold-bn 1",
        "preprocess imagenet",
        "98.71%",
        "calibrate 4.2 min",
        "peak memory 7.30 GB",
        "note: relative position",
        "candidate  mask agreement %  SQNR dB",
        "auto                   98.7     31.4  kept",
        "omse                      -     24.2",
    ):
        assert part in said
    assert said.count(":gelu ") + said.count(":query ") > 2
    assert "matches no site" not in said


def test_summary_of_the_least_report(degenerate: Report) -> None:
    said = text.summary(degenerate)
    assert "nothing to change" in said
    assert "-inf" in said
    assert "exact" in said


def test_columns_that_say_nothing_are_left_out(report: Report) -> None:
    scores = {"scores": report.outputs["scores"]}
    assert [name for name, _ in text.outputs_columns(scores)] == [
        "output",
        "SQNR dB",
        "worst sample",
        "cosine",
        "max error",
    ]
    labels = {"labels": report.outputs["labels"]}
    assert [name for name, _ in text.outputs_columns(labels)] == ["output", "max error", "equal"]


def test_table_is_aligned() -> None:
    assert text.table(["a", "b"], [["xx", "1"], ["y", "22"]], right=[1]) == "a    b\nxx   1\ny   22"
    assert text.table(["a"], []) == "a"


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0.0 kB"), (13_600, "13.6 kB"), (1_234_567, "1.23 MB"), (342_300_000, "342.3 MB"), (2_500_000_000, "2.50 GB")],
)
def test_megabytes(size: int, said: str) -> None:
    assert text.megabytes(size) == said


def test_numbers_in_words() -> None:
    assert [text.decibels(v) for v in (None, math.inf, -math.inf, 12.34)] == ["-", "exact", "-inf", "12.3"]
    assert [text.seconds(v) for v in (0.04, 119.0, 150.0, 9000.0)] == ["0.0 s", "119.0 s", "2.5 min", "2.5 h"]
    assert [text.count(n, "sample") for n in (0, 1, 2)] == ["0 samples", "1 sample", "2 samples"]
    assert text.times_smaller(Sizes(10, 20)) == "2.00 times larger"
