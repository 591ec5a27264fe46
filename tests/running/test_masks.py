"""Outputs that count as masks: those of a picture's size, not features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxptq.running.compare import outputs
from onnxptq.running.masks import pictures
from tests.graph.build import normal


def agreement(shape: tuple[int, ...], *inputs: tuple[int, ...], dtype: Any = np.float32) -> float | None:
    made = {"y": normal(*shape).astype(dtype)}
    sample = {f"x{i}": normal(*size) for i, size in enumerate(inputs)}
    return outputs([made], [made], pictures=[pictures(sample)])["y"].agreement


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ((1, 1, 64, 64), [(1, 3, 64, 64)]),
        ((1, 3, 16, 24), [(1, 3, 64, 96)]),
        ((1, 2, 64, 96), [(1, 64, 96, 3)]),
        ((2, 4, 64, 64), [(1, 128, 16, 16)]),
        ((2, 3, 45, 60), [(1, 128, 16, 16), (2, 1, 64, 64)]),
    ],
)
def test_masks(shape: tuple[int, ...], inputs: list[tuple[int, ...]]) -> None:
    assert agreement(shape, *inputs) == 1.0


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ((1, 8, 8, 48), [(1, 3, 64, 64)]),
        ((1, 8, 8, 48), [(1, 32, 8, 8)]),
        ((1, 1, 64, 64), []),
        ((1, 1, 64, 64), [(64, 1, 64)]),
        ((1, 8, 8, 8), [(1, 3, 64, 64)]),
        ((1, 8, 64, 64), [(1, 3, 64, 96)]),
        ((1, 16, 64, 64), [(1, 3, 64, 64)]),
    ],
)
def test_features(shape: tuple[int, ...], inputs: list[tuple[int, ...]]) -> None:
    assert agreement(shape, *inputs) is None


def test_pictures_of_bytes() -> None:
    assert pictures({"x": np.zeros((1, 64, 96, 3), np.uint8), "n": np.zeros((1, 2))}) == ((64, 96),)


def test_labels_of_the_size_of_the_picture() -> None:
    assert agreement((1, 64, 64), (1, 3, 64, 64), dtype=np.int64) == 1.0
    assert agreement((1, 8, 100), (1, 3, 64, 64), dtype=np.int64) is None
