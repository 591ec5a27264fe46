"""Groups by magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.outlier_retained import Group, OutlierRetainedParams, from_groups, merge_tails

RORQ = schemes()["outlier_retained"]
GROUPS = [Group(1.0, -1.0, 1.0, 900), Group(8.0, -8.0, 7.0, 90), Group(50.0, -3.0, 50.0, 20)]


def test_each_group_has_its_own_resolution() -> None:
    p = from_groups(GROUPS, 4)
    x = np.array([0.5, -0.9, 1.0, 6.0, -7.5, 40.0], np.float32)
    codes = RORQ.encode(x, p)
    assert (codes >> 4).tolist() == [0, 0, 0, 1, 1, 2]
    error = np.abs(RORQ.fake(x, p) - x)
    assert (error <= p.scales[[0, 0, 0, 1, 1, 2]] / 2 + 1e-6).all()


def test_unseen_outliers_belong_to_the_last_group() -> None:
    """Not to group 0, as in the published code, where 50 becomes 3.3."""
    p = from_groups(GROUPS, 4)
    assert RORQ.fake(np.array([60.0, 1e9, np.inf], np.float32), p).tolist() == [(15 - p.zeros[2]) * p.scales[2]] * 3
    assert abs((15 - p.zeros[2]) * p.scales[2] - 50) <= p.scales[2] / 2
    assert RORQ.fake(np.array([-60.0], np.float32), p) <= -p.scales[2] * p.zeros[2] + 1e-6


def test_small_tails_are_merged() -> None:
    tails = [*GROUPS, Group(60.0, 55.0, 60.0, 1), Group(70.0, -70.0, 65.0, 2)]
    kept = merge_tails(tails)
    assert [g.elements for g in kept] == [900, 90, 23]
    assert kept[-1] == Group(70.0, -70.0, 65.0, 23)
    assert merge_tails([Group(1.0, 0.0, 1.0, 1)]) == [Group(1.0, 0.0, 1.0, 1)]
    assert from_groups(tails, 4).scales.size == 3


def test_width_of_codes_counts_the_index() -> None:
    for groups, bits, dtype, width in (
        (1, 8, np.uint8, 8),
        (2, 8, np.uint16, 9),
        (4, 6, np.uint8, 8),
        (5, 6, np.uint16, 9),
        (3, 4, np.uint8, 6),
    ):
        p = from_groups([Group(2.0**i, -(2.0**i), 2.0**i, 99) for i in range(groups)], bits)
        assert RORQ.encode(np.ones(3, np.float32), p).dtype == dtype
        assert RORQ.bits_per_element(p, 10) == width


def test_one_group_is_the_uniform_code() -> None:
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    p = from_groups([Group(3.0, -3.0, 2.5, 1000)], 5)
    uniform = schemes()["uniform"]
    same = uniform.from_json({"bits": 5, "scale": p.scales[0].item(), "zero": p.zeros[0].item()})
    np.testing.assert_array_equal(RORQ.fake(x, p), uniform.fake(x, same))


def test_a_group_of_zeros_is_no_trouble() -> None:
    p = from_groups([Group(0.0, 0.0, 0.0, 100), Group(0.0, 0.0, 0.0, 100)], 4)
    assert RORQ.fake(np.zeros(4, np.float32), p).tolist() == [0.0] * 4


def test_nonsense_is_refused() -> None:
    good = from_groups(GROUPS, 4).to_json()
    for change, message in (
        ({"thresholds": [1.0]}, "each group but the last"),
        ({"thresholds": [8.0, 1.0]}, "ascend"),
        ({"zeros": [1, 2, 16]}, "fit 4 bits"),
        ({"scales": [1.0, 0.0, 1.0]}, "positive"),
    ):
        with pytest.raises(InputError, match=message):
            RORQ.from_json(good | change)
    with pytest.raises(InputError, match="1 to 256"):
        OutlierRetainedParams(4, np.zeros(0), np.zeros(0), np.zeros(0))
