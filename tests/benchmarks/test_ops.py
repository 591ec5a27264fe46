"""The benchmark of ops compares equal products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ops import CODINGS, Attention, Job, attention_jobs, measure, product_jobs, text
from benchmarks.plots import op_bars
from onnxptq import session
from onnxptq.running.metrics import decibels


def errors(jobs: Iterator[Job]) -> dict[str, float]:
    """Distance of every job's result from the FP32 one, dB."""
    results = {
        name: np.asarray(session(model, threads=1).run(None, feeds)[0], np.float64) for name, model, feeds in jobs
    }
    exact = results.pop("FP32")
    for result in results.values():
        assert result.shape == exact.shape
    return {
        name: decibels(float((exact**2).sum()), float(((exact - result) ** 2).sum()))
        for name, result in results.items()
    }


def test_products_are_one_product() -> None:
    found = errors(product_jobs(7, 40, 33))
    for coding in CODINGS:
        assert found[str(coding)] > 5 * min(coding.weight, coding.activation) - 12, coding
    assert found["W8A8"] > found["W6A6"] > found["W4A4"]


@pytest.mark.parametrize("window", [0, 4])
def test_attentions_are_one_attention(window: int) -> None:
    found = errors(attention_jobs(Attention("small", 2, 16, 8, window)))
    assert found["A8"] > 30
    assert found["A8 token"] > 30
    assert found["A8"] > found["A6"] > found["A4"] > 3


def test_tables_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = {"7x40x33": measure(product_jobs(7, 40, 33), 2)}
    assert rows["7x40x33"]["FP32"]["speed"] == 1
    assert "| 7x40x33 |" in text("products", rows)
    op_bars(
        {
            "portable": {
                "products": rows,
                "attentions": {"small": measure(attention_jobs(Attention("small", 2, 16, 8)), 2)},
            }
        },
        tmp_path / "ops.png",
        "here",
    )
    assert (tmp_path / "ops.png").read_bytes().startswith(b"\x89PNG")
