"""Facts about activations: their definitions, and their tensors in a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxptq.datasets import zoo
from onnxptq.evaluate import distributions as d
from onnxptq.running.sessions import session


def test_moments() -> None:
    rng = np.random.RandomState(0)
    assert d.kurtosis(rng.randn(200_000)) == pytest.approx(0, abs=0.05)
    assert d.kurtosis(rng.laplace(size=200_000)) == pytest.approx(3, abs=0.4)
    assert d.kurtosis(np.full(5, 2.0)) == -3
    assert d.reach(np.array([-1.0, 1, -1, 1])) == pytest.approx(1 / 3)


def test_softmax_shares() -> None:
    x = np.array([[0.9, 0.05, 0.049, 0.001], [0.4, 0.3, 0.2, 0.1]])
    facts = d.softmax_facts(x)
    assert facts["keys"] == 4
    assert facts["median of row maxima"] == pytest.approx(0.65)
    assert facts["below 1/512, %"] == 12.5
    assert facts["above 0.01, %"] == 87.5
    assert facts["above 0.5, %"] == 12.5


@pytest.mark.parametrize("folded", [False, True])
def test_key_channels_are_heads_times_dim(folded: bool) -> None:
    """Two heads whose channels sit at -3, 3 and 0, 0: half of them one-sided."""
    rng = np.random.RandomState(0)
    keys = rng.randn(5, 2, 40, 2) * 0.1 + np.array([[[-3, 3]], [[0, 0]]])
    facts = d.key_facts(keys.reshape(10, 40, 2) if folded else keys, heads=2)
    assert facts["channels"] == 4
    assert facts["one-sided, %"] == 50
    assert facts["between channels"] > 0.95
    assert (facts["lowest mean"], facts["highest mean"]) == (pytest.approx(-3, abs=0.05), pytest.approx(3, abs=0.05))


def test_text_outlier_channels() -> None:
    x = np.random.RandomState(0).randn(3, 50, 8) * 0.1
    x[0, 0, 5] = 40
    assert d.text_facts(x)["channels beyond 6 sigma"] == 1


def test_the_decoders_of_the_zoo() -> None:
    encoder = session(zoo.path("sam-mini-encoder"), threads=1)
    samples = [p.decoder_feeds(encoder.run(None, p.encoder_feeds)[0]) for p in zoo.prompt_samples("val", 3)]
    found = {t.title: t for t in d.tables(zoo.path("sam-mini-decoder"), samples)}
    assert set(found) == {"Softmax outputs", "GELU outputs", "Keys"}
    keys = {row[0]: dict(zip(found["Keys"].columns, row, strict=True)) for row in found["Keys"].rows}
    assert len(keys) == 7
    final = next(row for name, row in keys.items() if "final" in name)
    assert final["channels"] == "64"
    assert float(final["one-sided, %"]) > 50, "what makes this model's final keys bimodal"
    assert found["Keys"].markdown().count("\n") == 11


def test_command_line(tmp_path: Path) -> None:
    d.main(["-o", str(tmp_path / "d.md"), "--samples", "1"])
    text = (tmp_path / "d.md").read_text()
    assert all(f"## {name}" in text for name in zoo.MODELS)
    assert "### Inputs of the text encoder's linears" in text
