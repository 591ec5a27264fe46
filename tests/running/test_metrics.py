from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.running import metrics as module
from onnxptq.running.metrics import Accumulator, Metrics, mask_iou, metrics, overlap

rng = np.random.default_rng(0)


class TestMetrics:
    def test_known_values(self) -> None:
        one = metrics(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
        assert one.sqnr == pytest.approx(10 * math.log10(25 / 0.25))
        assert one.cosine == pytest.approx((9 + 18) / (5 * math.sqrt(9 + 4.5**2)))
        assert one.max_error == 0.5
        assert one.equal == 0.5
        assert one.agreement is None

    @given(st.floats(1e-3, 1e3), st.integers(1, 3))
    def test_sqnr_does_not_depend_on_scale_or_samples(self, scale: float, times: int) -> None:
        x = rng.normal(size=200)
        y = x + rng.normal(size=200) * 0.01
        held = Accumulator()
        for _ in range(times):
            held.update(x * scale, y * scale)
        assert held.result().sqnr == pytest.approx(metrics(x, y).sqnr)

    def test_large_arrays_are_folded_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = rng.normal(size=(2, 1000)).astype(np.float32)
        whole = metrics(x, y)
        monkeypatch.setattr(module, "CHUNK", 7)
        assert metrics(x, y).sqnr == pytest.approx(whole.sqnr)
        assert metrics(x, y).max_error == whole.max_error

    def test_pooled_median_and_worst(self) -> None:
        held = Accumulator()
        for error in (0.1, 0.01, 0.001):
            held.update(np.ones(1), np.ones(1) + error)
        result = held.result()
        assert result.samples == 3
        assert result.worst == pytest.approx(20)
        assert result.median == pytest.approx(40)
        assert result.sqnr == pytest.approx(10 * math.log10(3 / 0.010101))

    def test_equal_outputs(self) -> None:
        one = metrics(np.ones(3, np.float32), np.ones(3, np.float32))
        assert (one.sqnr, one.max_error, one.equal) == (math.inf, 0.0, 1.0)

    def test_zero_reference(self) -> None:
        zero = np.zeros(3, np.float32)
        assert metrics(zero, zero).sqnr == math.inf
        assert metrics(zero, zero + 1).sqnr == -math.inf
        assert metrics(zero, zero + 1).cosine is None

    def test_nan_is_never_hidden(self) -> None:
        one = metrics(np.ones(4), np.array([1, 1, np.nan, np.inf]))
        assert one.broken == 2
        assert (one.sqnr, one.worst, one.cosine, one.max_error) == (-math.inf, -math.inf, None, math.inf)

    def test_infinities_on_both_sides_are_no_error(self) -> None:
        one = metrics(np.array([-np.inf, 2.0, np.nan]), np.array([-np.inf, 1.0, np.nan]))
        assert one.broken == 0
        assert one.sqnr == pytest.approx(10 * math.log10(4))

    def test_integers_count_equal_elements(self) -> None:
        one = metrics(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9]))
        assert (one.sqnr, one.cosine, one.equal, one.max_error) == (None, None, 0.75, 5.0)

    def test_empty(self) -> None:
        one = metrics(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
        assert (one.sqnr, one.equal, one.max_error) == (None, 1.0, 0.0)

    def test_json_round_trip(self) -> None:
        for pair in (
            (np.ones(2), np.ones(2)),
            (np.zeros(2), np.ones(2)),
            (np.ones(2), np.array([1, np.nan])),
            (np.arange(2), np.arange(2)),
        ):
            one = metrics(*pair)
            assert Metrics.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one


class TestAgreement:
    def test_logits(self) -> None:
        a = np.full((1, 1, 8, 8), -1.0, np.float32)
        b = a.copy()
        a[..., :4, :] = 1.0
        b[..., :2, :] = 1.0
        assert metrics(a, b).agreement == pytest.approx(0.5)

    def test_mean_over_masks(self) -> None:
        a = np.full((1, 3, 8, 8), -1.0, np.float32)
        a[:, 0] = 1.0
        b = a.copy()
        b[:, 1] = 1.0
        assert metrics(a, b).agreement == pytest.approx((1 + 0 + 1) / 3)

    def test_two_channels_are_classes(self) -> None:
        a = np.zeros((1, 2, 8, 8), np.float32) + 5
        a[:, 1, :4] += 1
        b = a.copy()
        b[:, 1, 0] -= 2
        assert metrics(a, b).agreement == pytest.approx(0.75)

    def test_feature_maps_and_positive_maps_are_no_masks(self) -> None:
        features = rng.normal(size=(1, 64, 16, 16)).astype(np.float32)
        assert metrics(features, features).agreement is None
        heat = np.abs(rng.normal(size=(1, 1, 16, 16))).astype(np.float32)
        assert metrics(heat, heat).agreement is None
        tokens = rng.normal(size=(1, 32, 384)).astype(np.float32)
        assert metrics(tokens, tokens).agreement is None
        small = rng.normal(size=(1, 1, 4, 4)).astype(np.float32)
        assert metrics(small, small).agreement is None

    def test_label_maps_and_booleans(self) -> None:
        a = np.zeros((1, 8, 8), np.int64)
        b = a.copy()
        a[:, :4] = 7
        b[:, :2] = 7
        assert metrics(a, b).agreement == pytest.approx((0.5 + 32 / 48) / 2)
        assert metrics(a == 7, b == 7).agreement == pytest.approx(0.5)


class TestMaskIoU:
    def test_pairs_are_counted_one_by_one(self) -> None:
        one, other = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
        one[0, :2], other[0, :1] = True, True
        one[1, 0, 0] = True
        assert [counted.tolist() for counted in overlap(one, other)] == [[4, 0, 0], [8, 1, 0]]
        assert mask_iou(one, other).tolist() == [0.5, 0.0, 1.0]
        assert mask_iou(one, other, empty=0.0).tolist() == [0.5, 0.0, 0.0]

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match="against"):
            overlap(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)))
