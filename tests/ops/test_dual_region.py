"""Two regions, selected by the top bit."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.dual_region import GELU_LOWEST, DualRegionParams, gelu_regions, softmax_regions

DUAL = schemes()["dual_region"]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("m", range(20))
def test_softmax_regions_meet_half_way(bits: int, m: int) -> None:
    p = softmax_regions(bits, m)
    half = 2 ** (bits - 1)
    np.testing.assert_allclose(p.scale_low, 2.0**-m * float(p.scale_high), rtol=1e-6)
    t = p.threshold
    pair = np.array([np.nextafter(t, np.float32(0)), t], np.float32)
    below, above = DUAL.encode(pair, p)
    assert below < half <= above
    low, high = DUAL.decode(np.array([below, above], np.uint8), p).astype(np.float64)
    assert low <= high
    assert abs((low + high) / 2 - float(t)) <= 1e-6, "the threshold is the midpoint of the values on both sides"
    assert DUAL.fake(np.ones(1, np.float32), p) == pytest.approx(1.0, abs=1e-6)
    assert DUAL.fake(np.zeros(1, np.float32), p) == 0


def test_the_bare_split_is_not_monotone_and_the_midpoint_is() -> None:
    x = np.linspace(0, 1, 10001, dtype=np.float32)
    faithful, ours = (DUAL.fake(x, softmax_regions(4, 4, midpoint=midpoint)) for midpoint in (False, True))
    assert (np.diff(faithful) < 0).any()
    assert (np.diff(ours) >= 0).all()
    assert np.square(ours - x).mean() < np.square(faithful - x).mean()


@pytest.mark.parametrize("bits", range(2, 9))
def test_gelu_codes_are_two_signed_halves(bits: int) -> None:
    p, half = gelu_regions(bits, 0.25), 2 ** (bits - 1)
    x = np.concatenate([np.linspace(-0.2, 0, 500), np.linspace(0, half * 0.3, 500)]).astype(np.float32)
    codes = DUAL.encode(x, p).astype(int) - half
    wanted = np.where(
        x < 0, np.clip(np.rint(x / p.scale_low), -half, 0), np.clip(np.rint(x / p.scale_high), 0, half - 1)
    )
    assert (codes == wanted).all()
    assert (np.diff(codes) >= 0).all()
    np.testing.assert_allclose(DUAL.decode(np.zeros(1, np.uint8), p), -GELU_LOWEST, rtol=1e-6)
    assert DUAL.encode(np.array([-1e-9, 0.0, -0.0], np.float32), p).tolist() == [half] * 3


def test_grids_follow_the_sign_of_the_range() -> None:
    softmax, gelu = list(DUAL.grid(0.0, 1.0, 4)), list(DUAL.grid(-0.17, 3.0, 4))
    assert [p.form for p in softmax] == ["softmax"] * 20
    assert [p.form for p in gelu] == ["gelu"] * 100
    np.testing.assert_allclose(
        [float(gelu[0].scale_high), float(gelu[-1].scale_high)], [0.01 * 3 / 7.5, 1.1881 * 3 / 7.5], rtol=1e-6
    )


def test_nonsense_is_refused() -> None:
    one = np.asarray(1.0)
    with pytest.raises(InputError, match="form"):
        DualRegionParams(4, one, one, one, "relu")
    with pytest.raises(InputError, match="positive"):
        DualRegionParams(4, one, -one, one)
    with pytest.raises(InputError, match="single numbers"):
        DualRegionParams(4, one.reshape(1), one, one)
