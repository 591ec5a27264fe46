"""drq: searches of products' operands against brute force, weighted and not, per head, per channel, per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.gradients import Take
from onnxptq.calibration.jobs import jobs_of
from onnxptq.calibration.statistics.base import Request
from onnxptq.calibrators import calibrators
from onnxptq.calibrators.base import searches
from onnxptq.calibrators.search.blocks import Channels, Mixtures, Rows, Scores
from onnxptq.calibrators.search.products import published_sum
from onnxptq.errors import InputError
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.graph.model import Model
from onnxptq.ops import schemes
from onnxptq.ops.dual_region import GELU_LOWEST, DualRegionParams, softmax_regions
from onnxptq.ops.uniform import UniformParams, symmetric
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site, Window
from tests.calibration.small import model, samples, source

F32 = NDArray[np.float32]
DUAL, UNIFORM = schemes()["dual_region"], schemes()["uniform"]
EVERY = 10**6
WINDOW = Window((3, 3), (1, 1), (0, 0, 0, 0), (1, 1))
FACTORS = [0.01 + i * (1.2 - 0.01) / 100 for i in range(100)]
INPUT = Site("x", "MatMul_0", Role.LINEAR_INPUT, output="h")
WEIGHT = Site("w", "MatMul_0", Role.WEIGHT, axis=1, partner="x", output="h")


class Given:
    """Gradients that depend on nothing but the place."""

    def at(self, held: Model, tensors: Sequence[str]) -> Take:
        shapes = {name: held.graph.tensors()[name].shape for name in tensors}
        return lambda sample, index: {
            name: weight((2 if isinstance(shape[0], str) else shape[0], *shape[1:]), index)
            for name, shape in shapes.items()
        }


def weight(shape: tuple[int, ...], index: int) -> F32:
    return np.random.default_rng(index).exponential(1e-12, shape).astype(np.float32)


def drive(held: Model, given: Any, choices: Mapping[Site, Choice], **kwargs: Any) -> dict[str, Choice]:
    """What the joint search returns for these sites."""
    assert "drq" in calibrators()
    asked = searches({site.key: choice for site, choice in choices.items()}, {site.key: site for site in choices})
    found = Engine(held, source(held, given), threads=1, **kwargs).drive(asked, stage="search")
    return {key: choice for choices in found.values() for key, choice in choices.items()}


def linear(seed: int = 0) -> tuple[Model, F32]:
    w = np.random.default_rng(seed).standard_normal((8, 6)).astype(np.float32) * np.array(
        [1, 1, 5, 5, 0.1, 0.1], np.float32
    )
    return model("(float[batch, 6, 8] x) => (float[batch, 6, 6] h) { h = MatMul(x, w) }", w=w), w


def drq(scheme: str = "uniform", bits: int = 4, granularity: str = "tensor", **options: Any) -> Choice:
    return Choice(
        scheme,
        "drq",
        bits,
        granularity,
        symmetric=scheme == "uniform",
        options={"rows": EVERY, "metric": "mse", **options},
    )


def uniform(choice: Choice) -> UniformParams:
    assert isinstance(choice.params, UniformParams)
    return choice.params


def tried(x: F32, bits: int, axis: int | None = None) -> list[F32]:
    """``x`` by each of the hundred ranges."""
    largest = np.abs(x).max() if axis is None else np.abs(x).max(axis=axis, keepdims=True)
    return [UNIFORM.fake(x, symmetric(largest * f, bits)) for f in FACTORS]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_one_round_is_brute_force(bits: int, weighted: bool) -> None:
    held, w = linear()
    given = samples(3)
    x = np.concatenate([one["x"] for one in given]).reshape(-1, 8)
    g = np.concatenate([weight((2, 6, 6), i) for i in range(3)]).reshape(-1, 6) if weighted else np.ones((len(x), 6))
    g = g / g.max()
    choices = {WEIGHT: drq(bits=bits, granularity="channel", rounds=1), INPUT: drq(bits=bits, rounds=1)}
    if weighted:
        choices = {
            site: Choice(**{**c.__dict__, "options": {**c.options, "metric": "fisher"}}) for site, c in choices.items()
        }
    found = drive(held, given, choices, gradients=Given())
    whole = UNIFORM.fake(x, symmetric(np.abs(x).max(), bits))
    per_column = [(np.square(g * (whole @ one - x @ w))).sum(axis=0) for one in tried(w, bits, axis=0)]
    best = np.argmin(per_column, axis=0)
    wanted = np.abs(w).max(axis=0) * np.array(FACTORS)[best] / (2 ** (bits - 1) - 0.5)
    params = uniform(found[WEIGHT.key])
    assert params.scale.shape == (1, 6)
    np.testing.assert_allclose(params.scale[0], wanted, rtol=1e-5)
    coded = UNIFORM.fake(w, params)
    errors = [np.square(g * (one @ coded - x @ w)).sum() for one in tried(x, bits)]
    own = uniform(found[INPUT.key])
    np.testing.assert_allclose(
        own.scale, np.abs(x).max() * FACTORS[int(np.argmin(errors))] / (2 ** (bits - 1) - 0.5), rtol=1e-5
    )
    assert (own.zero == 2 ** (bits - 1)).all()


def test_rounds_never_make_it_worse_and_end_where_nothing_changes() -> None:
    held, w = linear(3)
    given = samples(3)
    x = np.concatenate([one["x"] for one in given]).reshape(-1, 8)

    def error(rounds: int) -> tuple[float, list[float]]:
        found = drive(held, given, {WEIGHT: drq(granularity="channel", rounds=rounds), INPUT: drq(rounds=rounds)})
        a, b = (uniform(found[site.key]) for site in (INPUT, WEIGHT))
        return float(np.square(UNIFORM.fake(x, a) @ UNIFORM.fake(w, b) - x @ w).sum()), [
            float(a.scale),
            *b.scale[0].tolist(),
        ]

    rounds = [error(n) for n in (1, 2, 3, 20, 21)]
    assert all(after <= before * (1 + 1e-5) for (before, _), (after, _) in pairwise(rounds))
    assert rounds[-1] == rounds[-2]


def test_weights_by_tensor_and_by_block() -> None:
    held, _ = linear()
    by_block = drive(held, samples(2), {WEIGHT: drq(granularity="block", blocks=[0, 0, 1, 1, 2, 2])})[WEIGHT.key]
    whole = drive(held, samples(2), {WEIGHT: drq()})[WEIGHT.key]
    scales = uniform(by_block).scale[0]
    assert scales[0] == scales[1] != scales[2] == scales[3] != scales[4] == scales[5]
    assert uniform(whole).scale.shape == ()
    assert "blocks" not in by_block.options


ATTENTION = (
    "(float[batch, 2, 5, 7] s, float[batch, 2, 7, 3] v, float[batch, 2, 5, 4] q, float[batch, 2, 7, 4] k) => "
    "(float[batch, 2, 5, 3] a, float[batch, 2, 5, 7] r) {"
    "p = Softmax<axis = -1>(s) a = MatMul(p, v) kt = Transpose<perm = [0, 1, 3, 2]>(k) r = MatMul(q, kt) }"
)
SOFTMAX = Site("p", "MatMul_1", Role.SOFTMAX, partner="v", output="a")
VALUE = Site("v", "MatMul_1", Role.VALUE, partner="p", output="a")
QUERY = Site("q", "MatMul_3", Role.QUERY, partner="k", output="r")
KEY = Site("k", "MatMul_3", Role.KEY, partner="q", output="r")


def attention_samples(spread: float = 4.0) -> list[dict[str, F32]]:
    rng = np.random.default_rng(7)
    heads = np.array([1.0, 10.0]).reshape(1, 2, 1, 1)
    return [
        {
            name: (rng.standard_normal((1, 2, rows, d)) * scale).astype(np.float32)
            for name, rows, d, scale in (
                ("s", 5, 7, spread),
                ("v", 7, 3, heads),
                ("q", 5, 4, heads),
                ("k", 7, 4, 1 / heads),
            )
        }
        for _ in range(6)
    ]


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("regions", ["midpoint", "bare", "sum"])
def test_the_split_is_that_of_brute_force(bits: int, regions: str) -> None:
    given = attention_samples()
    s, v = (np.concatenate([one[name] for one in given]) for name in "sv")
    p = np.exp(s - s.max(-1, keepdims=True)).astype(np.float32)
    p /= p.sum(-1, keepdims=True)
    meaning = published_sum if regions == "sum" else DUAL.fake
    codes = [softmax_regions(bits, m, midpoint=regions != "bare") for m in range(20)]
    best = int(np.argmin([np.square((meaning(p, one) - p) @ v).sum() for one in codes]))
    found = drive(
        model(ATTENTION),
        given,
        {SOFTMAX: drq("dual_region", bits, regions=regions), VALUE: drq(bits=bits, granularity="head", heads=2)},
    )
    assert found[SOFTMAX.key].params == codes[best]
    coded = DUAL.fake(p, codes[best])
    wanted = [
        np.abs(v[:, h]).max()
        * FACTORS[
            int(np.argmin([np.square(coded[:, h] @ one - p[:, h] @ v[:, h]).sum() for one in tried(v[:, h], bits)]))
        ]
        for h in range(2)
    ]
    values = uniform(found[VALUE.key])
    np.testing.assert_allclose(values.scale.reshape(-1), np.array(wanted) / (2 ** (bits - 1) - 0.5), rtol=1e-5)


@pytest.mark.parametrize("m", range(20))
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_codes_and_values_are_monotone(bits: int, m: int) -> None:
    x = np.unique(np.concatenate([np.linspace(0, 1, 4001), np.exp2(-np.linspace(0, 24, 4001))])).astype(np.float32)
    codes = DUAL.encode(x, softmax_regions(bits, m))
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert (np.diff(DUAL.decode(codes, softmax_regions(bits, m))) >= 0).all()


def test_heads_of_queries_and_keys_are_searched_on_their_own() -> None:
    given = attention_samples()
    one, both = (
        drq(granularity="head", heads=2),
        {QUERY: drq(granularity="head", heads=2), KEY: drq(granularity="head", heads=2)},
    )
    found = drive(model(ATTENTION), given, both)
    alone = drive(
        model(ATTENTION),
        [{**g, "q": np.roll(g["q"], 1, 1), "k": np.roll(g["k"], 1, 1)} for g in given],
        {QUERY: one, KEY: one},
    )
    for site in (QUERY, KEY):
        a, b = uniform(found[site.key]), uniform(alone[site.key])
        assert a.scale.shape == (2, 1, 1)
        np.testing.assert_allclose(a.scale.reshape(-1), b.scale.reshape(-1)[::-1], rtol=1e-6)


def test_heads_folded_into_the_batch() -> None:
    folded = model(ATTENTION.replace("batch, 2", "both").replace("[0, 1, 3, 2]", "[0, 2, 1]"))
    given = attention_samples()
    flat = [{name: x.reshape(-1, *x.shape[2:]) for name, x in one.items()} for one in given]
    choices = {SOFTMAX: drq("dual_region"), VALUE: drq(granularity="head", heads=2)}
    one, other = drive(model(ATTENTION), given, choices), drive(folded, flat, choices)
    assert one[SOFTMAX.key].params == other[SOFTMAX.key].params
    assert one[VALUE.key].params == other[VALUE.key].params


@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_gelu(aligned: bool, with_weight: bool) -> None:
    """Its own options count, not those of the weight it is searched with."""
    held = model(
        "(float[batch, 6, 8] x) => (float[batch, 6, 6] h) { g = Gelu(x) h = MatMul(g, w) }",
        w=np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32),
    )
    site = Site("g", "MatMul_1", Role.GELU, output="h")
    weight = Site("w", "MatMul_1", Role.WEIGHT, axis=1, partner="g", output="h")
    choices = {weight: drq(granularity="channel")} if with_weight else {}
    found = drive(held, samples(3), {**choices, site: drq("dual_region", 4, aligned=aligned)})[site.key].params
    assert isinstance(found, DualRegionParams)
    assert float(found.scale_low) == pytest.approx(GELU_LOWEST / 8, rel=1e-6)
    power = np.log2(float(found.scale_high) / float(found.scale_low))
    assert (abs(power - round(power)) < 1e-5) == aligned


def test_convolutions_go_by_their_output_or_like_products_by_their_own_error() -> None:
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    held = model("(float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] h) { h = Conv(x, w) }", w=w)
    x = np.random.default_rng(1).standard_t(3, (1, 3, 8, 8)).astype(np.float32)
    image = Site("x", "Conv_0", Role.CONV_INPUT, axis=1, output="h")
    kernel = Site("w", "Conv_0", Role.WEIGHT, axis=0, partner="x", output="h")
    found = drive(held, [{"x": x}], {image: drq(), kernel: drq(granularity="channel")})
    errors = [np.square(one - x).sum() for one in tried(x, 4)]
    own = uniform(found[image.key])
    np.testing.assert_allclose(own.scale, np.abs(x).max() * FACTORS[int(np.argmin(errors))] / 7.5, rtol=1e-5)
    kernels = uniform(found[kernel.key])
    assert kernels.scale.shape == (4, 1, 1, 1)
    both = [
        replace(drq(granularity=g, rounds=1), options={**drq(rounds=1).options, "window": asdict(WINDOW)})
        for g in ("tensor", "channel")
    ]
    found = drive(held, [{"x": x}], {image: both[0], kernel: both[1]})
    windows = (
        np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2)).transpose(1, 2, 0, 3, 4).reshape(36, -1)
    )
    matrix = w.reshape(4, -1).T
    whole = UNIFORM.fake(windows, symmetric(np.abs(x).max(), 4))
    per_column = [np.square(whole @ one - windows @ matrix).sum(axis=0) for one in tried(matrix, 4, axis=0)]
    by_output = np.abs(matrix).max(axis=0) * np.array(FACTORS)[np.argmin(per_column, axis=0)] / 7.5
    np.testing.assert_allclose(uniform(found[kernel.key]).scale.reshape(-1), by_output, rtol=1e-5)
    coded = UNIFORM.fake(w, uniform(found[kernel.key])).reshape(4, -1).T
    outputs = [
        np.square(one @ coded - windows @ matrix).sum()
        for one in (UNIFORM.fake(windows, symmetric(np.abs(x).max() * f, 4)) for f in FACTORS)
    ]
    np.testing.assert_allclose(
        uniform(found[image.key]).scale, np.abs(x).max() * FACTORS[int(np.argmin(outputs))] / 7.5, rtol=1e-5
    )
    product = Site("q", "MatMul_3", Role.MATMUL_INPUT, output="r")
    other = Site("kt", "MatMul_3", Role.MATMUL_INPUT, output="r")
    assert set(drive(model(ATTENTION), attention_samples(), {product: drq(), other: drq()})) == {product.key, other.key}


def test_inputs_after_a_relu_are_unsigned() -> None:
    held, _ = linear()
    x = np.abs(np.random.default_rng(0).standard_normal((2, 6, 8))).astype(np.float32)
    found = drive(held, [{"x": x}], {INPUT: drq(), WEIGHT: drq(granularity="channel")})
    assert int(uniform(found[INPUT.key]).zero) == 0
    assert (uniform(found[WEIGHT.key]).zero == 8).all()


def test_dead_operands() -> None:
    held, _ = linear()
    found = drive(held, [{"x": np.zeros((2, 6, 8), np.float32)}], {INPUT: drq(), WEIGHT: drq(granularity="channel")})
    for choice in found.values():
        assert (uniform(choice).scale > 0).all()


def test_what_is_kept_is_bounded_and_survives_a_checkpoint() -> None:
    seen, half, rest = (Rows(4, weighted=False) for _ in range(3))
    given = [one["x"] for one in samples(5)]
    for i, x in enumerate(given):
        seen.update(x)
        (half if i < 3 else rest).update(x)
    assert sum(block[0].size for block in seen.blocks) == 5 * 4 * 8
    again = Rows(4, weighted=False)
    again.load(seen.arrays())
    assert [b[0].tolist() for b in again.blocks] == [b[0].tolist() for b in seen.blocks]
    both = half.merge(rest)
    assert (both.samples, both.count) == (seen.samples, seen.count)
    np.testing.assert_array_equal(both.extrema["left"], seen.extrema["left"])
    wide = Mixtures(16, 1, weighted=False)
    for _ in range(4):
        wide.update(np.ones((1, 1, 16, 1 << 14), np.float32), np.ones((1, 1, 1 << 14, 256), np.float32))
    assert len(wide.blocks) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": "middle"}, "'middle' is none of 'midpoint'"),
        ({"metric": "hessian"}, "'hessian' is none of 'fisher'"),
        ({"rounds": 0}, "0 is not in 1 .. 100"),
        ({"alpha": 2.0}, "alpha = 2.0 must be less than beta"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    held, _ = linear()
    with pytest.raises(InputError, match=message):
        drive(held, samples(1), {INPUT: drq(**options)})


def test_other_schemes_and_empty_samples_are_refused() -> None:
    held, _ = linear()
    with pytest.raises(InputError, match="is for schemes 'uniform' and 'dual_region', not 'log_base'"):
        drive(held, samples(1), {INPUT: Choice("log_base", "drq", 4, options={"metric": "mse"})})
    with pytest.raises(InputError, match="hold no value of tensor 'x'"):
        drive(held, [{"x": np.zeros((0, 6, 8), np.float32)}], {INPUT: drq()})


def test_padded_tokens_are_left_out_of_rows_and_their_gradients() -> None:
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 0, 0]])
    x, g = (np.random.default_rng(n).normal(0, 1, (2, 5, 3 + n)).astype(np.float32) for n in (0, 1))
    seen = Rows(EVERY)
    (job,) = jobs_of({"t": Request("x", seen, partners=("g",))}, {"x": Padding("mask", -2)})
    job.fold(x, [g], {"mask": mask})
    kept = mask.astype(bool)
    left, gradient = seen.blocks[0]
    np.testing.assert_array_equal(left[0], x[kept])
    np.testing.assert_array_equal(gradient[0], g[kept])
    assert seen.whole("left") == (x[kept].min(), x[kept].max())
    job.fold(x, [g], {"mask": 0 * mask})
    assert len(seen.blocks) == 1, "a sentence of nothing but padding"


def test_places_of_padded_tokens_are_left_out() -> None:
    """A convolution's input: [batch, channels, tokens]."""
    x = np.random.default_rng(0).normal(0, 1, (1, 4, 5)).astype(np.float32)
    seen = Channels(EVERY, weighted=False)
    (job,) = jobs_of({"t": Request("x", seen)}, {"x": Padding("mask", -1)})
    job.fold(x, [], {"mask": np.array([[1, 1, 0, 1, 0]])})
    np.testing.assert_array_equal(seen.blocks[0][0][0], x[0][:, [0, 1, 3]].T)


def test_queries_and_keys_are_taken_whole() -> None:
    """Their rows do not belong together: padded keys are other tokens than padded queries of another text."""
    q, k = (np.random.default_rng(n).normal(0, 1, (1, 2, 5, 4)).astype(np.float32) for n in (0, 1))
    seen = Scores(EVERY, 2, weighted=False)
    (job,) = jobs_of({"t": Request("q", seen, partners=("k",))}, {"q": Padding("mask", -2)})
    job.fold(q, [k], {"mask": np.array([[1, 1, 0, 0, 0]])})
    np.testing.assert_array_equal(seen.blocks[0][0], q[0])
    np.testing.assert_array_equal(seen.blocks[0][1], k[0].transpose(0, 2, 1))
