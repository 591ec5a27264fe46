"""rorq: groups by magnitude on every kind of distribution, its rules, its limits; and log codes by percentiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibrators import calibrators
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.outlier_retained import OutlierRetainedParams
from onnxptq.ops.uniform import affine
from onnxptq.plan import Choice
from onnxptq.running.metrics import decibels
from onnxptq.structure import Role, Site
from tests.calibration.small import model, source

F32 = NDArray[np.float32]
SITE = Site("h", "Exp_1", Role.LINEAR_INPUT)
SCHEME, UNIFORM = schemes()["outlier_retained"], schemes()["uniform"]
RNG = np.random.default_rng(0)
KINDS = {
    "gaussian": RNG.standard_normal(20000),
    "student-t": RNG.standard_t(3, 20000),
    "one-sided": np.abs(RNG.standard_normal(20000)),
    "single outlier": np.append(RNG.standard_normal(10000), 50.0),
    "outlying channel": RNG.standard_normal((300, 64)) * np.where(np.arange(64) == 5, 60.0, 0.3),
    "constant": np.full(100, -3.0),
    "all zero": np.zeros(100),
    "one value": np.array([7.0]),
    "tiny": RNG.standard_normal(1000) * 1e-30,
    "huge": RNG.standard_normal(1000) * 1e30,
}


def found(
    x: NDArray[Any], bits: int = 4, calibrator: str = "rorq", scheme: str = "outlier_retained", **options: Any
) -> Choice:
    held = model("(float[n] x) => (float[n] y) { h = Neg(x) y = Tanh(h) }")
    given = [{"x": -np.asarray(x, np.float32).reshape(-1)}]
    search = calibrators()[calibrator].search(SITE, Choice(scheme, calibrator, bits, options=options))
    return Engine(held, source(held, given), threads=1).drive({"s": search}, stage="search")["s"]


def rorq(x: NDArray[Any], bits: int = 4, **options: Any) -> OutlierRetainedParams:
    params = found(x, bits, **options).params
    assert isinstance(params, OutlierRetainedParams)
    return params


def quality(x: NDArray[Any], coded: NDArray[Any]) -> float:
    a = np.asarray(x, np.float64)
    return decibels(float((a**2).sum()), float(((coded - a) ** 2).sum()))


@pytest.mark.parametrize("ranges", ["grid", "minmax"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_every_distribution(kind: str, bits: int, ranges: str) -> None:
    x = np.asarray(KINDS[kind], np.float32).reshape(-1)
    params = rorq(x, bits, ranges=ranges)
    coded = SCHEME.fake(x, params)
    assert np.isfinite(coded).all()
    if not x.any():
        assert not coded.any()
        return
    whole = UNIFORM.fake(x, affine(x.min(), x.max(), bits))
    assert quality(x, coded) >= quality(x, whole) - 0.01, "never worse than one range of extrema"


@pytest.mark.parametrize(
    ("kind", "rule", "least"),
    [("student-t", "mean+3sd", 6.0), ("outlying channel", "median+mad", 10.0), ("single outlier", "mean+3sd", 10.0)],
)
def test_outliers_no_longer_cost_the_rest(kind: str, rule: str, least: float) -> None:
    x = np.asarray(KINDS[kind], np.float32).reshape(-1)
    inner = np.abs(x) < np.quantile(np.abs(x), 0.95)
    grouped, whole = SCHEME.fake(x, rorq(x, rule=rule)), UNIFORM.fake(x, affine(x.min(), x.max(), 4))
    assert quality(x[inner], grouped[inner]) > quality(x[inner], whole[inner]) + least


def test_thresholds_are_mean_and_three_deviations_of_what_is_left() -> None:
    x = np.asarray(KINDS["student-t"], np.float32)
    left, wanted = np.abs(x), []
    for _ in range(2):
        wanted.append(left.mean() + 3 * left.std(ddof=1))
        left = left[left > wanted[-1]]
    params = rorq(x, groups=4, least=2)
    np.testing.assert_allclose(params.thresholds, wanted, rtol=0.02)


def test_rules_of_the_papers_table() -> None:
    x = np.asarray(KINDS["student-t"], np.float32)
    a = np.abs(x).astype(np.float64)
    median = np.median(a)
    wanted = {
        "mean": a.mean(),
        "median+mad": median + 3 * np.median(np.abs(a - median)),
        "confidence": a.mean() + 2.5758293 * a.std(ddof=1),
        "mean+3sd": a.mean() + 3 * a.std(ddof=1),
    }
    for rule, threshold in wanted.items():
        np.testing.assert_allclose(rorq(x, rule=rule).thresholds[0], threshold, rtol=2e-3, err_msg=rule)


def test_groups_are_limited_and_their_bits_counted() -> None:
    x = np.asarray(KINDS["student-t"], np.float32)
    for limit, index in ((1, 0), (2, 1), (3, 2), (4, 2), (8, 3)):
        params = rorq(x, groups=limit, rule="mean", least=1, ranges="minmax")
        assert params.scales.size == limit
        assert SCHEME.bits_per_element(params, x.size) == 4 + index
        assert np.abs(SCHEME.fake(np.array([x.max()]), params) - x.max()) <= params.scales[-1] * 2


def test_what_was_never_seen_belongs_to_the_last_group() -> None:
    params = rorq(np.append(KINDS["gaussian"], np.full(20, 40.0)))
    assert SCHEME.fake(np.array([60.0], np.float32), params) > 35


def test_small_tails_join_the_group_before() -> None:
    x = np.append(KINDS["gaussian"], [50.0, 51.0])
    few, many = rorq(x, least=2), rorq(x, least=500)
    assert few.scales.size > many.scales.size


def test_grid_beats_extrema() -> None:
    x = np.asarray(KINDS["gaussian"], np.float32)
    grid, extrema = (quality(x, SCHEME.fake(x, rorq(x, 3, ranges=ranges))) for ranges in ("grid", "minmax"))
    assert grid > extrema + 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mean+3sed"}, r"'mean.3sed' is none of 'mean.3sd'"),
        ({"ranges": "max"}, "'max' is none of 'grid'"),
        ({"groups": 0}, "0 is not in 1 .. 256"),
        ({"least": 0}, "0 is not in 1 .. "),
        ({"scheme": "uniform"}, "for scheme 'outlier_retained', not 'uniform'"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        found(KINDS["gaussian"], **options)


def test_empty_samples_are_refused() -> None:
    with pytest.raises(InputError, match="hold no value"):
        rorq(np.zeros(0))


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_log_codes_by_percentiles(bits: int) -> None:
    scores = RNG.standard_normal((400, 32)) * 3
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    params = found(p, bits, "percentile", "log_base", tau=2.0).params
    assert isinstance(params, LogBaseParams)
    assert params.tau == 2
    tops = np.quantile(p, [0.999, 0.9999, 0.99999])
    errors = [np.square(schemes()["log_base"].fake(p, LogBaseParams(bits, float(top), 2.0)) - p).sum() for top in tops]
    assert params.scale == pytest.approx(tops[int(np.argmin(errors))], rel=6e-3)
