"""agq: log-base codes searched on the attention's output, against brute force; averaged ranges of least error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.statistics.base import NotFinite, Request
from onnxptq.calibrators import calibrators
from onnxptq.calibrators.avgomse import BestRanges
from onnxptq.calibrators.search.log_errors import POOL, LogHistogram, OutputErrors, pick, scales
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.uniform import affine
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site
from tests.calibration.small import HAS_LIBRARY, model, source

F32 = NDArray[np.float32]
LOG_BASE = schemes()["log_base"]
SITE = Site("p", "MatMul_1", Role.SOFTMAX, partner="v")
EVERY = 10**6


def softmax(scores: NDArray[Any]) -> F32:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True), np.float32)


def drawn(*shape: int, spread: float = 3.0, d: int = 5, seed: int = 0) -> tuple[F32, F32]:
    """Attention weights of that shape and values."""
    rng = np.random.default_rng(seed)
    weights = softmax(rng.standard_normal(shape) * spread)
    return weights, rng.standard_normal((*shape[:-2], shape[-1], d)).astype(np.float32)


def error(p: F32, v: F32, scale: float, tau: float, bits: int, exponent: float = 2.4) -> float:
    """Mean of |Q(P) v - P v|^exponent, step by step."""
    coded = LOG_BASE.fake(p, LogBaseParams(bits, scale, tau)).astype(np.float64)
    return float((np.abs(coded @ v - p.astype(np.float64) @ v) ** exponent).mean())


def search(samples: list[tuple[F32, F32]], choice: Choice, *, site: Site = SITE, observers: bool = True) -> Choice:
    """What the calibrator makes of attentions: scores are logarithms of the weights."""
    dims = [", ".join(f"{'pv'[which]}{i}" for i in range(one.ndim)) for which, one in enumerate(samples[0])]
    held = model(
        f"(float[{dims[0]}] x, float[{dims[1]}] v) => (float[{dims[0]}] y) {{ p = Softmax(x) y = MatMul(p, v) }}"
    )
    given = [{"x": np.log(np.maximum(p, 1e-38)), "v": v} for p, v in samples]
    return Engine(held, source(held, given), threads=1, observers=observers).drive(
        {"s": calibrators()[choice.calibrator].search(site, choice)}, stage="search"
    )["s"]


def params(choice: Choice) -> LogBaseParams:
    assert isinstance(choice.params, LogBaseParams)
    return choice.params


def agq(bits: int = 4, **options: Any) -> Choice:
    return Choice("log_base", "agq", bits, options=options)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_errors_on_the_grid_are_those_of_coding(bits: int, spread: float, exponent: float) -> None:
    p, v = drawn(2, 3, 7, 33, spread=spread)
    seen = OutputErrors(bits, (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), exponent, EVERY)
    seen.update(p, 100 * v)
    tried = np.flatnonzero(np.isfinite(seen.errors[0]))
    assert 80 <= len(tried) < len(scales())
    for i, tau in enumerate(seen.taus):
        for j in tried[::9]:
            assert seen.errors[i, j] == pytest.approx(error(p, 100 * v, scales()[j], tau, bits, exponent), rel=2e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 33), (2, 7, 40), (4, 64, 7), (1, 6, 4, 300)])
@pytest.mark.parametrize("bits", [3, 6])
def test_no_other_point_of_the_grid_is_better(shape: tuple[int, ...], bits: int) -> None:
    samples = [drawn(*shape, seed=seed, spread=1 + 2 * seed) for seed in range(3)]
    found = params(search(samples, agq(bits)))
    peak = max(p.max() for p, _ in samples)
    assert 0.01 * peak <= found.scale <= peak
    assert found.tau in (1.0, 2.0, 4.0)
    least = np.mean([error(p, v, found.scale, found.tau, bits) for p, v in samples])
    for tau in (1.0, 2.0, 4.0):
        for scale in scales()[(scales() <= peak) & (scales() >= 0.01 * peak)][::3]:
            assert least <= np.mean([error(p, v, scale, tau, bits) for p, v in samples]) * (1 + 1e-4) + 1e-12


def test_the_search_minimises_the_output_and_the_other_one_the_map() -> None:
    samples = [drawn(4, 30, 60, spread=2.5)]
    output, by_map = params(search(samples, agq(3))), params(search(samples, agq(3, objective="map")))
    p, v = samples[0]
    assert error(p, v, output.scale, output.tau, 3) < error(p, v, by_map.scale, by_map.tau, 3)
    weights = {
        (tau, scale): (np.abs(LOG_BASE.fake(p, LogBaseParams(3, scale, tau)) - p).astype(np.float64) ** 2.4).mean()
        for tau in (1.0, 2.0, 4.0)
        for scale in scales()[(scales() <= p.max()) & (scales() >= 0.01 * p.max())]
    }
    assert weights[by_map.tau, by_map.scale] <= 1.02 * min(weights.values())


def test_finer_tau_are_never_worse_and_log2_never_better() -> None:
    samples = [drawn(2, 30, 50, spread=spread) for spread in (1.0, 4.0)]
    errors = []
    for taus in ("fine", "paper", [1.0]):
        found = params(search(samples, agq(4, taus=taus)))
        errors.append(np.mean([error(p, v, found.scale, found.tau, 4) for p, v in samples]))
    assert errors[0] <= errors[1] * (1 + 1e-6) <= errors[2] * (1 + 2e-6)
    assert errors[0] < errors[2]


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_a_code_has_two_to_the_bits_values_that_fall_to_zero(bits: int) -> None:
    p, v = drawn(2, 30, 50)
    found = params(search([(p, v)], agq(bits)))
    values = LOG_BASE.decode(np.arange(2**bits, dtype=np.uint8), found)
    assert len(set(values.tolist())) == 2**bits
    assert (np.diff(values) < 0).all()
    assert values[-1] == 0
    rising = np.sort(p.reshape(-1))
    assert (np.diff(LOG_BASE.fake(rising, found)) >= 0).all()


def test_a_sample_of_rows_chooses_what_all_rows_choose() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((24, 64, 64)) * rng.choice([1.0, 1.0, 1.0, 6.0], (24, 64, 1))
    v = rng.standard_normal((24, 64, 16)).astype(np.float32)
    for bits in (4, 6):
        whole, some = OutputErrors(bits, (1.0, 2.0, 4.0), 2.4, EVERY), OutputErrors(bits, (1.0, 2.0, 4.0), 2.4, 128)
        for seed in range(4):
            p = softmax(scores + 0.3 * np.random.default_rng(seed).standard_normal(scores.shape))
            whole.update(p, v)
            some.update(p, v)
        (tau, scale), (tau_some, scale_some) = whole.best(), some.best()
        assert tau == tau_some
        assert abs(np.log2(scale / scale_some)) < 2.1 / 12
        least = whole.errors[whole.taus.index(tau), np.abs(scales() - scale).argmin()]
        assert whole.errors[whole.taus.index(tau), np.abs(scales() - scale_some).argmin()] <= 1.1 * least


def test_rows_with_the_largest_peaks_are_taken_and_others_stand_for_their_neighbours() -> None:
    peaks = np.random.default_rng(0).permutation(100).astype(np.float32)
    places, weights = pick(peaks, 10)
    assert sorted(peaks[places[:5]]) == [95, 96, 97, 98, 99]
    assert weights.tolist() == [1] * 5 + [19] * 5
    assert peaks[places[5:]].tolist() == [85, 66, 47, 28, 9]
    assert pick(peaks, 100)[1].tolist() == [1.0] * 100


@pytest.mark.native
@pytest.mark.skipif(not HAS_LIBRARY, reason="no compiled op library here")
@pytest.mark.parametrize("shape", [(5, 9), (3, 40, 20), (2, 4, 90, 30)])
def test_rows_sampled_in_the_graph_are_the_same(shape: tuple[int, ...]) -> None:
    samples = [drawn(*shape, seed=seed) for seed in range(2)]
    dims = [", ".join(map(str, one.shape)) for one in samples[0]]
    held = model(
        f"(float[{dims[0]}] x, float[{dims[1]}] v) => (float[{dims[0]}] y) {{ p = Softmax(x) y = MatMul(p, v) }}"
    )
    given = source(held, [{"x": np.log(p), "v": v} for p, v in samples])
    for make in (lambda: OutputErrors(4, (1.0, 2.0), 2.4, 3), lambda: LogHistogram(3)):
        found = []
        for observers in (True, False):
            statistic = make()
            engine = Engine(held, given, observers=observers, threads=1)
            partners = ("v",) if isinstance(statistic, OutputErrors) else ()
            engine.fill({"p": Request("p", statistic, partners=partners)}, stage="walk")
            assert engine.walks[0].tapped == int(observers)
            found.append(statistic.arrays())
        for key, array in found[0].items():
            np.testing.assert_array_equal(array, found[1][key])
    assert np.prod(shape[:-1]) > POOL * 3 or shape == (5, 9), "the larger shapes are sampled"


@pytest.mark.parametrize(
    "observers", [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_LIBRARY, reason="no compiled op library"))]
)
def test_values_count_against_the_memory_limit(observers: bool) -> None:
    held = model(
        "(float[2, 6, 9] x, float[2, 9, 4] v, float[2, 6, 4] w) => (float[2, 9, 4] y)"
        "{ p = Softmax(x) u = MatMul(p, v) t = Transpose<perm = [0, 2, 1]>(x) r = Softmax(t) y = MatMul(r, w) }"
    )
    (p, v), (_, w) = drawn(2, 6, 9, d=4), drawn(2, 9, 6, d=4)
    found = []
    for limit in (1, None):
        engine = Engine(
            held, source(held, [{"x": np.log(p), "v": v, "w": w}]), threads=1, observers=observers, memory_limit=limit
        )
        requests = {
            name: Request(name, OutputErrors(4, (1.0, 2.0), 2.4, 2), partners=(other,))
            for name, other in (("p", "v"), ("r", "w"))
        }
        found.append(engine.fill(requests, stage="walk"))
        assert engine.walks[0].forwards == (2 if limit else 1)
    for name in "pr":
        np.testing.assert_array_equal(found[0][name].arrays()["errors"], found[1][name].arrays()["errors"])


@pytest.mark.parametrize(
    "make", [lambda: OutputErrors(4, (1.0, 4.0), 2.4, 8), lambda: LogHistogram(2), lambda: BestRanges(4, False, 2.4)]
)
def test_parts_merge_and_states_are_kept(make: Any) -> None:
    samples = [drawn(2, 20, 12, seed=seed, spread=seed + 1) for seed in range(4)]

    def filled(part: list[tuple[F32, F32]]) -> Any:
        statistic = make()
        for p, v in part:
            statistic.update(*((p, v) if isinstance(statistic, OutputErrors) else (p,)))
        return statistic

    whole = filled(samples)
    for merged in (
        filled(samples[:1]).merge(filled(samples[1:])),
        filled(samples[:3]).merge(make()).merge(filled(samples[3:])),
    ):
        for key, array in whole.arrays().items():
            np.testing.assert_allclose(merged.arrays()[key], array, rtol=1e-12)
    copy = make()
    copy.load(whole.arrays())
    for key, array in whole.arrays().items():
        np.testing.assert_array_equal(copy.arrays()[key], array)
    assert make().kind() == whole.kind()


def test_values_that_are_not_finite_are_refused() -> None:
    p, v = drawn(2, 3, 4)
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFinite):
            OutputErrors(4, (1.0,), 2.4, 8).update(p, np.where(v == v.max(), np.float32(bad), v))
        with pytest.raises(NotFinite):
            OutputErrors(4, (1.0,), 2.4, 8).update(np.where(p == p.max(), np.float32(bad), p), v)


def test_values_of_any_unit_and_shared_values() -> None:
    p, v = drawn(2, 3, 9, 33)
    found = [params(search([(p, unit * v)], agq())) for unit in (np.float32(1e-12), np.float32(1), np.float32(1e12))]
    assert found[0] == found[1] == found[2]
    seen = [OutputErrors(4, (1.0, 2.0, 4.0), 2.4, EVERY) for _ in range(2)]
    seen[0].update(p, v[:1, :1])
    seen[1].update(p, np.broadcast_to(v[:1, :1], v.shape))
    np.testing.assert_allclose(seen[0].errors, seen[1].errors, rtol=1e-6)


def test_degenerate_weights() -> None:
    v = np.ones((1, 4, 2), np.float32)
    one_key = np.zeros((1, 3, 4), np.float32)
    one_key[..., 0] = 1
    masked = OutputErrors(4, (1.0, 2.0), 2.4, 8)
    masked.update(np.zeros((1, 3, 4), np.float32), v)
    assert masked.best() == (1.0, 1.0)
    sharp = OutputErrors(4, (2.0, 4.0), 2.4, 8)
    sharp.update(one_key, v)
    assert sharp.best() == (2.0, 1.0)
    zero = OutputErrors(4, (1.0, 2.0), 2.4, 8)
    zero.update(one_key, 0 * v)
    assert zero.best()[0] == 1.0
    empty = OutputErrors(4, (1.0,), 2.4, 8)
    empty.update(np.zeros((0, 3, 4), np.float32), np.zeros((0, 4, 2), np.float32))
    assert empty.samples == 0


@pytest.mark.parametrize("objective", ["output", "map"])
def test_nothing_seen_is_an_error(objective: str) -> None:
    nothing = (np.zeros((0, 3, 4), np.float32), np.zeros((0, 4, 2), np.float32))
    with pytest.raises(InputError, match="the calibration samples hold no value of tensor 'p'"):
        search([nothing], agq(objective=objective))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("uniform", "agq", 4), "'agq' finds codes of scheme 'log_base' for softmax outputs, not of 'uniform'"),
        (agq(taus="papre"), "option 'taus': unknown 'papre'; did you mean 'paper'"),
        (agq(taus=[5.0]), "tau 5.0 does not fit"),
        (agq(taus=[0.0]), "tau 0.0 does not fit"),
        (agq(rows=0), "option 'rows': 0 is not in 1 .. "),
        (agq(exponent=-1), "option 'exponent': -1 is not in 0.1 .. 16"),
        (agq(objective="outptu"), "'outptu' is none of 'output', 'map'"),
    ],
)
def test_wrong_options(choice: Choice, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search([drawn(2, 3, 4)], choice)


def test_a_site_without_values_is_an_error() -> None:
    with pytest.raises(InputError, match="for softmax outputs"):
        search([drawn(2, 3, 4)], agq(), site=Site("p", "MatMul_1", Role.LINEAR_INPUT))


class TestAverageOmse:
    """``avgomse``: the mean of each sample's best range."""

    @staticmethod
    def range_of(x: F32, bits: int, *, symmetric: bool = False, exponent: float = 2.4) -> tuple[float, float]:
        seen = BestRanges(bits, symmetric, exponent)
        seen.update(x)
        return seen.low, seen.high

    @pytest.mark.parametrize("exponent", [2.0, 2.4])
    @pytest.mark.parametrize("bits", [2, 4, 6, 8])
    def test_each_range_comes_near_the_best_there_is(self, bits: int, exponent: float) -> None:
        for shift in (0.0, 2.5, 50.0):
            rng = np.random.default_rng(1)
            x = np.maximum(rng.standard_t(4, 6000) + shift, -0.5 if shift else -np.inf).astype(np.float32)

            def loss(low: float, high: float, x: F32 = x) -> float:
                return float(
                    (
                        np.abs(schemes()["uniform"].fake(x, affine(low, high, bits)).astype(np.float64) - x) ** exponent
                    ).mean()
                )

            found = loss(*self.range_of(x, bits, exponent=exponent))
            low, high = min(x.min(), 0), max(x.max(), 0)
            pairs = [(a * low, b * high) for a in np.linspace(0.05, 1, 20) for b in np.linspace(0.05, 1, 20)]
            assert found <= 1.1 * min(loss(*pair) for pair in pairs)
            assert found <= loss(low, high)

    def test_ranges_are_averaged_over_samples(self) -> None:
        rng = np.random.default_rng(0)
        tensors = [(rng.standard_t(3, (2, 300)) * size).astype(np.float32) for size in (1, 5, 2)]
        held = model("(float[a, b] x) => (float[a, b] y) { h = Neg(x) y = Exp(h) }")
        site = Site("h", "Exp_1", Role.MATMUL_INPUT)
        engine = Engine(held, source(held, [{"x": -x} for x in tensors]), threads=1)
        found = engine.drive(
            {"s": calibrators()["avgomse"].search(site, Choice("uniform", "avgomse", 4))}, stage="search"
        )["s"]
        ends = np.mean([self.range_of(x, 4) for x in tensors], axis=0)
        assert found.params == affine(ends[0], ends[1], 4)

    def test_units_do_not_matter(self) -> None:
        x = np.random.default_rng(0).standard_t(3, 500).astype(np.float32)
        for factor in (2.0**-60, 2.0**40):
            scaled = self.range_of(x * np.float32(factor), 4)
            np.testing.assert_allclose(np.array(scaled) / factor, self.range_of(x, 4), rtol=1e-6)

    @pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
    def test_constant_tensors(self, value: float) -> None:
        low, high = self.range_of(np.full((4, 3), value, np.float32), 4)
        x = np.full(5, value, np.float32)
        np.testing.assert_allclose(schemes()["uniform"].fake(x, affine(low, high, 4)), x, rtol=0.02)

    def test_what_does_not_fit(self) -> None:
        for choice, message in (
            (Choice("log_base", "avgomse", 4), "is for scheme 'uniform'"),
            (Choice("uniform", "avgomse", 4, "channel"), "one range for the tensor, not per channel"),
        ):
            with pytest.raises(InputError, match=message):
                next(calibrators()["avgomse"].search(SITE, choice))
