"""Calibrators of activations against brute force on the tensors themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibrators import calibrators
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.rows import row_range
from onnxptq.ops.uniform import UniformParams, affine, affine_codes, affine_values, symmetric
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site
from tests.calibration.small import mlp, model, source

F32 = NDArray[np.float32]
SITE = Site("h", "Exp_1", Role.MATMUL_INPUT)


def calibrate(tensors: list[F32], choice: Choice, *, site: Site = SITE) -> Choice:
    """What a calibrator makes of a tensor with these values."""
    dims = ", ".join(f"d{i}" for i in range(tensors[0].ndim))
    held = model(f"(float[{dims}] x) => (float[{dims}] y) {{ h = Neg(x) y = Exp(h) }}")
    engine = Engine(held, source(held, [{"x": -x} for x in tensors]), threads=1)
    return engine.drive({"s": calibrators()[choice.calibrator].search(site, choice)}, stage="search")["s"]


def params(choice: Choice) -> UniformParams:
    assert isinstance(choice.params, UniformParams)
    return choice.params


def spread(seed: int = 0, *, count: int = 3, shape: tuple[int, ...] = (2, 400, 6)) -> list[F32]:
    """Heavy tails, another scale in each channel and sample."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_t(3, shape) * np.linspace(0.5, 4, shape[-1]) * (i + 1) + 0.4).astype(np.float32)
        for i in range(count)
    ]


def loss(tensors: list[F32], p: UniformParams) -> float:
    """Sum of squared errors."""
    scheme = schemes()["uniform"]
    return float(sum(np.square(scheme.fake(x, p).astype(np.float64) - x).sum() for x in tensors))


def same(found: UniformParams, expected: UniformParams) -> None:
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.zero, expected.zero)


def test_minmax() -> None:
    tensors = spread()
    whole = np.concatenate(tensors).reshape(-1, 6)
    same(params(calibrate(tensors, Choice("uniform", "minmax", 6))), affine(whole.min(), whole.max(), 6))
    channels = params(calibrate(tensors, Choice("uniform", "minmax", 6, "channel")))
    same(channels, affine(whole.min(axis=0), whole.max(axis=0), 6))
    signed = params(calibrate(tensors, Choice("uniform", "minmax", 6, symmetric=True)))
    same(signed, symmetric(np.abs(whole).max(), 6))


def test_avgminmax() -> None:
    tensors = spread()
    found = params(calibrate(tensors, Choice("uniform", "avgminmax", 4)))
    same(
        found,
        affine(
            np.mean([x.min() for x in tensors], dtype=np.float64),
            np.mean([x.max() for x in tensors], dtype=np.float64),
            4,
        ),
    )
    channels = params(calibrate(tensors, Choice("uniform", "avgminmax", 4, "channel")))
    ends = (
        np.mean([x.astype(np.float64).reshape(-1, 6).__getattribute__(f)(axis=0) for x in tensors], axis=0)
        for f in ("min", "max")
    )
    same(channels, affine(*ends, 4))


@pytest.mark.parametrize("bits", [4, 8])
def test_percentile(bits: int) -> None:
    tensors = spread(shape=(2, 20_000, 6))
    whole = np.concatenate(tensors)
    best = min(loss(tensors, affine(*np.quantile(whole, [1 - p, p]), bits)) for p in (0.999, 0.9999, 0.99999))
    assert loss(tensors, params(calibrate(tensors, Choice("uniform", "percentile", bits)))) == pytest.approx(
        best, rel=0.02
    )


def test_percentile_of_channels() -> None:
    tensors = spread(shape=(1, 1000, 6))
    found = params(calibrate(tensors, Choice("uniform", "percentile", 4, "channel")))
    assert found.scale.shape == (6,)
    rows = np.concatenate(tensors).reshape(-1, 6)
    for c in range(6):
        column = [rows[:, c]]
        losses = [loss(column, affine(*np.quantile(rows[:, c], [1 - p, p]), 4)) for p in (0.999, 0.9999, 0.99999)]
        assert loss(column, UniformParams(4, found.scale[c], found.zero[c])) == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 2.5, 100.0])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_omse_comes_near_the_best_range_there_is(bits: int, shift: float) -> None:
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_t(4, 8000) + shift, -0.5 if shift else -np.inf).astype(np.float32)
    found = loss([x], params(calibrate([x], Choice("uniform", "omse", bits))))
    low, high = min(x.min(), 0), max(x.max(), 0)
    factors = np.linspace(0.02, 1, 50)
    pairs = [(a, b) for a in (factors if low < 0 else [1.0]) for b in factors]
    best = min(loss([x], affine(a * low, b * high, bits)) for a, b in pairs[:: max(len(pairs) // 400, 1)])
    assert found <= best * 1.1
    assert found <= loss([x], affine(low, high, bits))


def test_omse_of_channels_and_signed() -> None:
    tensors = spread(shape=(1, 300, 6))
    channels = params(calibrate(tensors, Choice("uniform", "omse", 4, "channel")))
    tensor = params(calibrate(tensors, Choice("uniform", "omse", 4)))
    signed = params(calibrate(tensors, Choice("uniform", "omse", 4, symmetric=True)))
    assert channels.scale.shape == (6,)
    assert loss(tensors, channels) < loss(tensors, tensor) < loss(tensors, signed)
    assert signed.zero == 8


def test_heads() -> None:
    rng = np.random.default_rng(0)
    tensors = [(rng.standard_normal((2, 3, 50, 4)) * np.array([1, 5, 9])[:, None, None]).astype(np.float32)]
    for granularity, shape in (("head", (3, 1, 1)), ("channel", (3, 1, 4))):
        for calibrator in ("minmax", "percentile", "avgminmax", "omse"):
            choice = Choice("uniform", calibrator, 6, granularity, options={"heads": 3})
            found = params(calibrate(tensors, choice, site=Site("h", "Exp_1", Role.VALUE)))
            folded = params(
                calibrate([x.reshape(6, 50, 4) for x in tensors], choice, site=Site("h", "Exp_1", Role.VALUE))
            )
            assert found.scale.shape == shape
            assert (np.diff(found.scale[:, 0, 0]) > 0).all()
            same(folded, found)


def test_channels_of_a_convolution() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 7)).astype(np.float32)
    found = params(
        calibrate([x], Choice("uniform", "minmax", 8, "channel"), site=Site("h", "Exp_1", Role.CONV_INPUT, axis=1))
    )
    assert found.scale.shape == (3, 1, 1)
    np.testing.assert_array_equal(
        found.scale.reshape(-1), affine(x.min(axis=(0, 2, 3)), x.max(axis=(0, 2, 3)), 8).scale
    )


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "avgminmax", "omse"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-30])
def test_constant_tensors(calibrator: str, granularity: str, value: float) -> None:
    x = np.full((4, 3), value, np.float32)
    found = params(calibrate([x], Choice("uniform", calibrator, 4, granularity)))
    np.testing.assert_allclose(schemes()["uniform"].fake(x, found), x, rtol=0.02)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "avgminmax", "omse"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_nothing_seen_is_an_error(calibrator: str, granularity: str) -> None:
    with pytest.raises(InputError, match="the calibration samples hold no value of tensor 'h'"):
        calibrate([np.zeros((0, 3), np.float32)], Choice("uniform", calibrator, 4, granularity))


def test_dynamic_schemes_need_no_walk() -> None:
    for scheme in ("token", "row"):
        found = calibrate(spread(), Choice(scheme, "token", 5, "row"))
        assert found.params is not None
        assert found.params.bits == 5
    with pytest.raises(
        InputError, match="ranges of columns are for an attention's values, not for matmul_input; use granularity 'row'"
    ):
        calibrate(spread(), Choice("token", "token", 5, "column"))
    with pytest.raises(
        InputError, match="calibrator 'token' is for schemes that take ranges at run time, not 'uniform'"
    ):
        calibrate(spread(), Choice("uniform", "token", 5))


@pytest.mark.parametrize(("bits", "scheme"), [(5, "uniform"), (6, "token")])
@pytest.mark.parametrize("granularity", ["row", "column"])
def test_a_row_as_short_as_its_range_gets_a_static_one(granularity: str, bits: int, scheme: str) -> None:
    """A range takes 40 bits: as many as 8 codes of 5 bits, fewer than 8 of 6."""
    role = Role.QUERY if granularity == "row" else Role.VALUE
    shape = (2, 3, 20, 8) if granularity == "row" else (2, 3, 8, 20)
    held = model("(float[2, 3, A, B] x) => (float[2, 3, A, B] y) { y = Relu(x) }")
    given = [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(2)]
    choice = Choice("token", "token", bits, granularity, options={"short": "minmax", "heads": 3})
    search = calibrators()["token"].search(Site("x", "Relu_0", role), choice)
    found = Engine(held, source(held, given)).drive({"s": search}, stage="search")["s"]
    assert found.scheme == scheme
    assert (
        found.granularity == ("channel" if granularity == "column" else "head") if scheme == "uniform" else granularity
    )
    if scheme == "uniform":
        assert isinstance(found.params, UniformParams)
        assert found.params.scale.size == (3 if granularity == "row" else 3 * 20)


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="calibrator 'minmax' is for scheme 'uniform', not 'token'"):
        calibrate(spread(), Choice("token", "minmax", 4))
    with pytest.raises(InputError, match="finds static ranges, per tensor, channel or head, not per row"):
        calibrate(spread(), Choice("uniform", "omse", 4, "row"))


class TestBest:
    """``best``: the least measured output error wins."""

    def search(
        self, candidates: list[str], *, bits: int = 4, outlier: float = 0.0, loud: float = 1.0, level: float = 0.0
    ) -> tuple[Choice, dict[str, float]]:
        rng = np.random.default_rng(0)
        held = mlp()
        given: list[dict[str, Any]] = [{"x": rng.standard_normal((4, 6, 8)).astype(np.float32)} for _ in range(3)]
        given[0]["x"][0, 0, 0] += outlier
        for sample in given:
            sample["x"][..., 0] *= loud
            sample["x"][:, :2, 0] += level
        choice = Choice("uniform", "best", bits, options={"candidates": candidates, "heads": 2})
        site = Site("x", "MatMul_0", Role.LINEAR_INPUT)
        engine = Engine(held, source(held, given), threads=1)
        found = engine.drive({"s": calibrators()["best"].search(site, choice)}, stage="search")["s"]
        assert len(engine.walks) == 1
        weight = next(c.values for c in held.constants() if c.name == "w")
        rows = np.concatenate([s["x"] for s in given]).reshape(-1, 8)
        losses = {}
        for name in candidates:
            scheme, granularity = {"token": ("token", "row"), "rorq": ("outlier_retained", "tensor")}.get(
                name, ("uniform", "tensor")
            )
            alone = Choice(scheme, name, bits, granularity)
            done = Engine(held, source(held, given)).drive(
                {"s": calibrators()[name].search(site, alone)}, stage="search"
            )["s"]
            losses[name] = float(
                np.square((schemes()[done.scheme].fake(rows, done.params) - rows) @ weight).sum() / rows.size
            )
        return found, losses

    @pytest.mark.parametrize("outlier", [0.0, 40.0])
    def test_the_errors_are_those_of_the_output(self, outlier: float) -> None:
        found, losses = self.search(["minmax", "percentile", "omse", "token"], outlier=outlier)
        errors = found.options["errors"]
        losses["token"] *= 4**5  # A range of 40 bits for 8 elements is 5 bits an element.
        for name, error in losses.items():
            assert errors[name] == pytest.approx(error, rel=1e-4)
        assert found.calibrator == min(losses, key=lambda name: losses[name])
        assert "candidates" not in found.options
        assert found.options["heads"] == 2

    def test_a_range_of_a_short_row_is_not_worth_its_bits(self) -> None:
        found, losses = self.search(["minmax", "token"], outlier=100.0)
        assert losses["token"] < losses["minmax"]
        assert found.calibrator == "minmax"

    @pytest.mark.parametrize(("spread", "winner"), [({"loud": 30.0}, "minmax"), ({"level": 30.0}, "rorq")])
    def test_an_index_of_a_group_has_to_be_worth_its_bits(self, spread: dict[str, float], winner: str) -> None:
        found, losses = self.search(["minmax", "rorq"], **spread)  # type: ignore[arg-type]
        assert losses["rorq"] < losses["minmax"]
        assert found.options["errors"]["rorq"] == pytest.approx(4 * losses["rorq"], rel=1e-4), "two groups: one bit"
        assert found.calibrator == winner

    def test_of_equals_the_first(self) -> None:
        assert self.search(["avgminmax", "minmax", "avgminmax"][:1])[0].calibrator == "avgminmax"

    def test_wrong_candidates(self) -> None:
        for wrong in ([], ["best"], ["magic"]):
            with pytest.raises(InputError, match="'best' needs `candidates`"):
                self.search(wrong)


def test_best_without_a_weight_and_with_a_kernel() -> None:
    rng = np.random.default_rng(0)
    held = model(
        "(float[1, 4, 6, 6] x) => (float[1, 2, 6, 6] y) { h = Neg(x) y = Conv<kernel_shape = [1, 1]>(h, k) }",
        k=rng.standard_normal((2, 4, 1, 1)).astype(np.float32)
        * np.array([100, 0, 0, 0], np.float32)[None, :, None, None],
    )
    x = rng.standard_normal((1, 4, 6, 6)).astype(np.float32)
    x[:, 1:] *= 50
    choice = Choice("uniform", "best", 3, options={"candidates": ["minmax", "omse"]})
    errors = {}
    for role, consumer in ((Role.CONV_INPUT, "Conv_1"), (Role.MATMUL_INPUT, "Conv_1")):
        site = Site("h", consumer, role, axis=1)
        found = Engine(held, source(held, [{"x": x}])).drive(
            {"s": calibrators()["best"].search(site, choice)}, stage="search"
        )["s"]
        errors[role] = found.options["errors"]["minmax"]
    scheme, code = schemes()["uniform"], affine((-x).min(), (-x).max(), 3)
    change = scheme.fake(-x, code) + x
    kernel = next(c.values for c in held.constants())[:, :, 0, 0]
    assert errors[Role.MATMUL_INPUT] == pytest.approx(np.square(change).mean(), rel=1e-4)
    assert errors[Role.CONV_INPUT] == pytest.approx(
        np.square(np.einsum("oc,bchw->bohw", kernel, change)).sum() / x.size, rel=1e-4
    )


@pytest.mark.parametrize(("ranges", "axes"), [("pixel", (1,)), ("channel", (2, 3)), ("sample", (1, 2, 3))])
def test_best_knows_what_ranges_of_images_bring(ranges: str, axes: tuple[int, ...]) -> None:
    """The error by which ``best`` judges ranges that a convolution takes at run time is that of the coded images."""
    rng = np.random.default_rng(0)
    shape = (6, 1, 3, 3) if ranges == "channel" else (4, 6, 1, 1)
    kernel = rng.standard_normal(shape).astype(np.float32)
    group = 6 if ranges == "channel" else 1
    held = model(
        f"(float[1, 6, 20, 20] x) => (float[B, O, P, Q] y) {{ h = Neg(x) y = Conv<group = {group}>(h, k) }}", k=kernel
    )
    loud = np.array([1, 2, 4, 8, 16, 32], np.float32).reshape(-1, 1, 1)
    images = [rng.standard_normal((1, 6, 20, 20)).astype(np.float32) * loud * s for s in (0.5, 1, 2)]
    options = {"candidates": ["minmax", "token"], "geometry": ranges}
    site = Site("h", "Conv_1", Role.CONV_INPUT, axis=1)
    search = calibrators()["best"].search(site, Choice("uniform", "best", 7, options=options))
    found = Engine(held, source(held, [{"x": -x} for x in images])).drive({"s": search}, stage="search")["s"]
    line = {"pixel": 6, "channel": 400, "sample": 2400}[ranges]
    assert (found.scheme, found.granularity) == (("uniform", "tensor") if line == 6 else ("token", ranges))
    change = []
    for x in images:
        scale, zero = row_range(x, 7, axes)
        change.append(affine_values(affine_codes(x, scale, zero, 7), scale, zero) - x)
    weights = np.square(kernel.reshape(6, -1) if group > 1 else kernel[:, :, 0, 0].T).sum(axis=1)
    noise = np.square(np.concatenate(change)).mean(axis=(0, 2, 3)) @ weights / 6
    # The mean of the ranges is squared, not each: of three loudnesses that is a quarter less. A range of 40 bits is
    # charged to its line, a factor of four for each bit.
    assert found.options["errors"]["token"] == pytest.approx(noise * 4 ** (40 / line), rel=0.35)


def test_ranges_at_run_time_need_an_op_that_takes_them() -> None:
    """A transposed convolution has none, so ``best`` does not try them."""
    held = model(
        "(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { h = Neg(x) y = ConvTranspose(h, k) }",
        k=np.ones((2, 2, 1, 1), np.float32),
    )
    choice = Choice("uniform", "best", 8, options={"candidates": ["minmax", "token"]})
    search = calibrators()["best"].search(Site("h", "ConvTranspose_1", Role.CONV_INPUT, axis=1), choice)
    found = Engine(held, source(held, [{"x": np.ones((1, 2, 4, 4), np.float32)}])).drive({"s": search}, stage="s")["s"]
    assert list(found.options["errors"]) == ["minmax"]


@pytest.mark.parametrize("name", sorted(n for n, s in schemes().items() if not s.dynamic and n != "uniform"))
def test_omse_serves_every_scheme(name: str) -> None:
    x = np.abs(spread()[0])
    x /= x.max()
    found = calibrate([x], Choice(name, "omse", 4))
    scheme = schemes()[name]
    candidates = list(scheme.grid(float(x.min()), float(x.max()), 4))
    losses = [float(np.square(scheme.fake(x, p) - x).sum()) for p in candidates]
    assert float(np.square(scheme.fake(x, found.params) - x).sum()) <= 1.1 * min(losses)
