from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxptq.evaluate import rectangles

pytest.importorskip("shapely")

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@pytest.mark.parametrize("degrees", [0, 17, 45, 80, 133])
def test_rectangle_around_a_turned_box(degrees: float) -> None:
    a = np.radians(degrees)
    y, x = np.mgrid[:200, :200] + 0.5
    u, v = (x - 100) * np.cos(a) + (y - 100) * np.sin(a), (y - 100) * np.cos(a) - (x - 100) * np.sin(a)
    mask = (np.abs(u) < 60) & (np.abs(v) < 20)
    corners = rectangles.around(mask)
    assert corners is not None
    want = (
        np.array([[-60, -20], [60, -20], [60, 20], [-60, 20]])
        @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        + 100
    )
    assert rectangles.iou(corners, want) > 0.93
    sides = np.sort(np.linalg.norm(np.diff(corners, axis=0), axis=1))
    assert sides[0] == pytest.approx(40, abs=2.5)
    assert sides[-1] == pytest.approx(120, abs=2.5)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@given(masks.filter(lambda m: m.any()))
def test_the_rectangle_holds_every_pixel(mask: np.ndarray) -> None:
    corners = rectangles.around(mask)
    assert corners is not None
    rows, cols = np.nonzero(mask)
    points = np.concatenate([np.stack([cols + i, rows + j], -1) for i in (0, 1) for j in (0, 1)])
    edge = np.roll(corners, -1, 0) - corners
    turn = edge[:, None, 0] * (points[None, :, 1] - corners[:, None, 1]) - edge[:, None, 1] * (
        points[None, :, 0] - corners[:, None, 0]
    )
    assert (turn > -1e-6).all() or (turn < 1e-6).all()
    upright = (cols.max() + 1 - cols.min()) * (rows.max() + 1 - rows.min())
    assert abs(area(corners)) <= upright + 1e-9


def test_no_rectangle_around_nothing() -> None:
    assert rectangles.around(np.zeros((4, 4), bool)) is None


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def test_overlap_of_polygons() -> None:
    assert rectangles.iou(box(0, 0, 2, 2), box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert rectangles.iou(box(0, 0, 2, 2), box(0, 0, 2, 2)[::-1]) == pytest.approx(1)
    assert rectangles.iou(box(0, 0, 2, 2), box(2, 0, 4, 2)) == 0
    assert rectangles.iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0
    assert rectangles.iou(box(0, 0, 2, 2), box(0, 0, 2, 2)[[0, 2, 1, 3]]) == pytest.approx(1)
    diamond = np.array([[1, 0], [2, 1], [1, 2], [0, 1]], float)
    assert rectangles.iou(box(0, 0, 2, 2), diamond) == pytest.approx(0.5)


def test_overlap_of_turned_boxes_by_counting_points() -> None:
    rng = np.random.RandomState(0)
    y, x = (np.mgrid[:600, :600] + 0.5) / 100
    for _ in range(5):
        shapes, inside = [], []
        for _ in range(2):
            a, c, w, h = rng.uniform(0, np.pi), rng.uniform(2.4, 3.6, 2), rng.uniform(0.5, 1.6), rng.uniform(0.5, 1.6)
            turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
            shapes.append(np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) @ turn + c)
            u, v = (x - c[0]) * turn[0, 0] + (y - c[1]) * turn[0, 1], (x - c[0]) * turn[1, 0] + (y - c[1]) * turn[1, 1]
            inside.append((np.abs(u) < w) & (np.abs(v) < h))
        want = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
        assert rectangles.iou(*shapes) == pytest.approx(want, abs=0.01)
