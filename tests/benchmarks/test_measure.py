"""The arithmetic and the records of the comparisons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import measure, models, peers
from benchmarks.graphs import Graph
from onnxptq.evaluate.records import write_record


def test_sqnr_is_the_median_over_samples() -> None:
    graph = Graph(Path("m.onnx"), [], [{"x": np.zeros(1)}] * 3)
    expected = [np.full((2, 4), 10.0)] * 3
    got = [np.full((2, 4), 11.0), np.full((2, 4), 10.1), np.full((2, 4), 15.0)]
    assert measure.sqnr(graph, expected, got) == pytest.approx(20.0)
    assert measure.sqnr(graph, expected, expected) == math.inf
    assert measure.sqnr(graph, expected, [np.full((2, 4), np.nan)] * 3) == -math.inf


def test_padding_does_not_count() -> None:
    samples: Any = [{"attention_mask": np.array([[1, 1, 0]])}]
    expected = [np.full((1, 3, 4), 10.0)]
    got = [expected[0] + np.array([1, 1, 1000]).reshape(1, 3, 1)]
    assert measure.sqnr(Graph(Path("m.onnx"), [], samples, "attention_mask"), expected, got) == pytest.approx(20.0)
    assert measure.sqnr(Graph(Path("m.onnx"), [], samples), expected, got) < 0


def test_jobs_are_done_once_and_failures_are_not_kept(tmp_path: Path) -> None:
    done = tmp_path / "done.json"
    write_record(done, {"sqnr": 1.5})
    assert measure.job(done, "no.such.module") == {"sqnr": 1.5}
    failed = tmp_path / "failed.json"
    assert "No module named" in measure.job(failed, "no.such.module")["error"]
    assert not failed.exists()


def test_rows_have_files_of_their_own() -> None:
    rows = list(peers.rows())
    assert len({peers.stem(row) for row in rows}) == len({row.name for row in rows}) == len(rows)
    assert {v.row for v in (*models.VARIANTS, *models.OTHERS)} - {""} <= {row.name for row in rows}


def test_tables_are_whole(tmp_path: Path) -> None:
    fine = {
        "row": "a",
        "sqnr": 1.0,
        "sqnr_in_float": 2.0,
        "coverage": "1/1 linears",
        "mib": 2.0,
        "cpu_seconds": 3.0,
        "peak_mib": 4.0,
    }
    text = peers.table([fine, {"row": "b", "error": "no"}], original=8.0)
    lines = text.splitlines()
    assert {line.count("|") for line in lines} == {8}
    assert "2.0 (4.00x)" in lines[2]
    assert "fails: no" in lines[3]
    speed = {
        "name": "a",
        "engine": "onnxptq",
        "row": "a",
        "sqnr": 1.0,
        "mib": 2.0,
        "peak_mib": 4.0,
        "ratio-1": {"ratio": 1.25},
    }
    lines = models.table(
        [speed, {"name": "b", "engine": "onnxruntime", "row": "b", "error": "no"}], [1, 2]
    ).splitlines()
    assert {line.count("|") for line in lines} == {7}
    assert "1.25x" in lines[2]
    json.loads(json.dumps(measure.machine()))
