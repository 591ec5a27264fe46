"""Freely placed values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.table import table

TABLE = schemes()["table"]


@given(bits=st.integers(2, 8), seed=st.integers(0, 99), largest=st.sampled_from([31, 127]))
def test_every_number_goes_to_the_nearest_value(bits: int, seed: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    p = table(rng.normal(size=2**bits) ** 3, bits, largest=largest)
    assert np.abs(p.values).max() == largest
    x = rng.normal(size=500).astype(np.float32) * 3
    values = p.values.astype(np.float64) * float(p.scale)
    nearest = np.abs(x[:, None] - values).min(1)
    np.testing.assert_allclose(
        np.abs(TABLE.fake(x, p) - x.astype(np.float64)), nearest, atol=1e-5 * np.abs(values).max()
    )


def test_an_edge_belongs_to_the_larger_value() -> None:
    p = table([-4, -1, 0, 4], 2)
    assert TABLE.encode(p.edges, p).tolist() == [1, 2, 3]
    assert TABLE.encode(np.nextafter(p.edges, np.float32(-9)), p).tolist() == [0, 1, 2]
    assert TABLE.encode(np.array([np.nan, -np.inf, np.inf], np.float32), p).tolist() == [0, 0, 3]


def test_levels_are_kept_to_half_a_unit() -> None:
    levels = np.sort(np.random.default_rng(0).normal(size=16))
    p = table(levels, 4)
    assert np.abs(p.values * float(p.scale) - levels).max() <= float(p.scale) * 0.501


@pytest.mark.parametrize("levels", [np.zeros(4), np.full(4, 1e-45), np.full(4, -2e38)])
def test_degenerate_levels_still_make_a_table(levels: np.ndarray) -> None:
    p = table(levels, 2)
    assert np.isfinite(TABLE.fake(np.array([0.0, 1.0, -1.0], np.float32), p)).all()


def test_nonsense_is_refused() -> None:
    good = table([-1, 0, 1, 2], 2).to_json()
    for change, message in (
        ({"values": [1, 2, 3]}, "values must be 4"),
        ({"values": [3, 2, 1, 0]}, "ascend"),
        ({"values": [-129, 0, 1, 2]}, "no finite int8"),
        ({"edges": [0.0]}, "edges must be 3"),
        ({"edges": [1.0, 0.0, 2.0]}, "ascend"),
        ({"scale": 0.0}, "positive"),
    ):
        with pytest.raises(InputError, match=message):
            TABLE.from_json(good | change)
