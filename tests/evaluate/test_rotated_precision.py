from __future__ import annotations

import numpy as np
import pytest

from onnxptq.evaluate.rotated_precision import Found, RotatedAp

pytest.importorskip("shapely")


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def test_rotated_map() -> None:
    ap = RotatedAp()
    for k in range(4):
        ap.add_truth("ship", "a", box(10 * k, 0, 10 * k + 8, 4), difficult=k == 3)
    assert ap.average(0.5) == 0
    ap.add("ship", Found("a", box(0, 0, 8, 4), 0.9))
    ap.add("ship", Found("a", box(0, 0, 8, 4), 0.8))  # a second time: an error
    ap.add("ship", Found("a", box(30, 0, 38, 4), 0.95))  # difficult: neither way
    ap.add("ship", Found("b", box(0, 0, 8, 4), 0.7))  # another image: an error
    ap.add("ship", Found("a", box(10, 0, 18, 3), 0.6))  # IoU 0.75
    assert ap.average(0.5) == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 4))
    assert ap.average(0.8) == pytest.approx(100 / 3)
    summary = ap.summary()
    assert summary["mAP50"] == ap.average(0.5)
    assert summary["mAP75"] == ap.average(0.75)


def test_categories_count_alike() -> None:
    ap = RotatedAp()
    ap.add_truth("ship", "a", box(0, 0, 8, 4), difficult=False)
    ap.add_truth("plane", "a", box(20, 0, 28, 4), difficult=False)
    ap.add_truth("harbor", "a", box(40, 0, 48, 4), difficult=True)
    ap.add("ship", Found("a", box(0, 0, 8, 4), 1.0))
    assert ap.average(0.5) == pytest.approx(50)
    assert RotatedAp().average(0.5) == 0
