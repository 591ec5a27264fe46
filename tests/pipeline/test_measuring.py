"""Measurements of weights, odd ones too."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.ops.uniform import UniformParams
from onnxptq.pipeline.measuring import _weight
from onnxptq.plan import Choice
from tests.graph.build import normal

ONE = np.float32(1)


@pytest.mark.parametrize(
    "weight",
    [
        np.full((8, 8), 0.1, np.float32),
        np.where(normal(8, 8) > 0, ONE, np.nextafter(ONE, np.float32(2))),
        (normal(8, 8) * 1e-40).astype(np.float32),
        np.zeros((8, 8), np.float32),
        (normal(8, 8) * 1e37).astype(np.float32),
    ],
    ids=["equal", "nearly equal", "denormal", "zero", "huge"],
)
def test_weights_of_any_values_are_drawn(weight: NDArray[np.float32]) -> None:
    params = UniformParams(8, np.full((1, 1), 0.01, np.float32), np.full((1, 1), 128, np.uint8))
    measured = _weight(weight, weight, Choice("uniform", "omse", 8, params=params))
    assert measured.drawing is not None
    assert sum(measured.drawing.counts) == weight.size
