"""IoU figures against a few lines of plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxptq.evaluate.overlap import Agreement, MaskScore, RefScore

stack = arrays.arrays(np.bool_, st.tuples(st.integers(1, 4), st.just(5), st.just(4)))


@given(stack, st.integers(0, 2**31 - 1))
def test_figures_are_their_definitions(predicted: np.ndarray, seed: int) -> None:
    true = np.random.RandomState(seed % 2**31).rand(*predicted.shape) < 0.5
    ious, inter, union = [], 0, 0
    for p, t in zip(predicted, true, strict=True):
        i = sum(bool(a and b) for a, b in zip(p.flat, t.flat, strict=True))
        u = sum(bool(a or b) for a, b in zip(p.flat, t.flat, strict=True))
        ious.append(i / u if u else 0.0)
        inter, union = inter + i, union + u
    score, refs = MaskScore(), RefScore()
    for k in range(len(true)):
        score.add(predicted[k : k + 1], true[k : k + 1])
        refs.add(predicted[k : k + 1], true[k : k + 1])
    mean = 100 * sum(ious) / len(ious)
    assert score.summary()["mIoU"] == pytest.approx(mean)
    figures = refs.summary()
    assert figures["MIoU"] == pytest.approx(mean)
    assert figures["OIoU"] == pytest.approx(100 * inter / max(union, 1))
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        assert figures[f"P@{threshold}"] == pytest.approx(100 * sum(v >= threshold for v in ious) / len(ious))


def test_thresholds_are_inclusive() -> None:
    score = RefScore()
    score.add(np.array([[[1, 1, 0, 0]]], bool), np.array([[[1, 0, 0, 0]]], bool))
    assert score.summary()["P@0.5"] == 100
    assert score.summary()["P@0.6"] == 0


def test_empty_masks() -> None:
    none, some = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    score, agreement = MaskScore(), Agreement()
    score.add(none, none)
    assert score.summary()["mIoU"] == 0
    agreement.add(none, none)
    assert agreement.percent == 100
    agreement.add(none, some)
    assert agreement.percent == 50


def test_nothing_counted_yet() -> None:
    assert MaskScore().summary() == {"masks": 0, "mIoU": 0.0, "P@0.75": 0.0, "P@0.9": 0.0}
    assert RefScore().summary()["OIoU"] == 0
    assert Agreement().percent == 0


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="against"):
        MaskScore().add(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))
