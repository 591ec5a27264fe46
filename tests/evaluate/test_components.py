from __future__ import annotations

import numpy as np
import pytest

from onnxptq.evaluate.components import label, largest

pytest.importorskip("scipy")


def test_corners_join_pixels() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    labels, count = label(mask)
    assert count == 3
    assert labels.tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 3]]


def test_a_spiral_is_one_component() -> None:
    mask = np.zeros((41, 41), bool)
    y, x, dy, dx = 0, 0, 0, 1
    for _ in range(700):
        mask[y, x] = True
        ny, nx = y + 2 * dy, x + 2 * dx
        if not (0 <= ny < 41 and 0 <= nx < 41) or mask[ny, nx]:
            dy, dx = dx, -dy
        y, x = y + dy, x + dx
    assert label(mask)[1] == 1


def test_largest() -> None:
    mask = np.zeros((6, 9), bool)
    mask[0, 0] = mask[3:5, 4:9] = True
    assert largest(mask).sum() == 10
    assert largest(np.zeros((3, 3), bool)).sum() == 0
