"""Gradients as weights: their closed form, their predictions, and cases without any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import parser

torch = pytest.importorskip("torch")

from onnxptq.calibration.engine import Engine  # noqa: E402
from onnxptq.calibration.gradients import NoGradient, gradient_of  # noqa: E402
from onnxptq.calibration.sources.opening import open_source  # noqa: E402
from onnxptq.calibration.statistics.base import Request  # noqa: E402
from onnxptq.errors import InputError  # noqa: E402
from onnxptq.graph.canonical import canonicalise  # noqa: E402
from onnxptq.graph.load import load  # noqa: E402
from onnxptq.graph.model import Model  # noqa: E402
from onnxptq.learn.executor import Executor  # noqa: E402
from onnxptq.learn.fisher import Fisher, gradients  # noqa: E402
from onnxptq.structure import discover  # noqa: E402

NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[1, 3, 4] x) => (float[1, 3, 4] logits, float[1, 3, 4] other, float[1, 3, 4] dead)
{
    h = Tanh(x)
    two = Constant <value_float = 2.0> ()
    logits = Mul(h, two)
    other = Neg(h)
    zero = Constant <value_float = 0.0> ()
    dead = Mul(h, zero)
    apart = Exp(x)
    kind = Cast <to = 7> (x)
}
"""
X = {"x": np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32)}
DRAWS = 1000


def mean_squares(net: Model, tensor: str, **options: Any) -> np.ndarray:
    """The mean squared gradient of each element over many draws of labels: Fisher's diagonal."""
    take = Fisher(**options).at(net, [tensor])
    return np.mean([np.square(take(X, draw)[tensor], dtype=np.float64) for draw in range(DRAWS)], axis=0)


@pytest.fixture
def net() -> Model:
    return Model.from_proto(parser.parse_model(NET))


def softmax(z: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(z - z.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [1, -1])
def test_categorical_squares_are_those_of_the_fisher_information(net: Model, axis: int) -> None:
    """E[(p - y)^2] = p (1 - p) for y drawn from p, along the axis of classes and no other (trap of the published
    code)."""
    found = mean_squares(net, "logits", likelihood="categorical", class_axis=axis)
    p = softmax(2 * np.tanh(X["x"].astype(np.float64)), axis)
    np.testing.assert_allclose(found, p * (1 - p), atol=5 * 0.25 / DRAWS**0.5)


def test_bernoulli_and_gaussian_squares(net: Model) -> None:
    p = 1 / (1 + np.exp(-2 * np.tanh(X["x"].astype(np.float64))))
    found = mean_squares(net, "logits", likelihood="bernoulli")
    np.testing.assert_allclose(found, p * (1 - p), atol=5 * 0.25 / DRAWS**0.5)
    np.testing.assert_allclose(mean_squares(net, "h"), 4, atol=4 * 5 * (2 / DRAWS) ** 0.5)


def test_labels_are_drawn_and_not_the_prediction_itself(net: Model) -> None:
    """The divergence of a prediction from itself has no gradient; the mean over labels drawn from it has none either,
    single draws have."""
    take = Fisher(likelihood="categorical").at(net, ["logits"])
    drawn = np.stack([take(X, index)["logits"] for index in range(DRAWS)])
    assert (np.abs(drawn).max(axis=(1, 2, 3)) > 0.3).all()
    assert np.abs(drawn.mean(axis=0)).max() < 5 * 0.5 / DRAWS**0.5


def test_draws_depend_on_seed_and_sample_alone(net: Model) -> None:
    def draw(seed: int, index: int) -> np.ndarray:
        return gradients(net, ["h"], X, seed=seed, index=index, likelihood="categorical")["h"]

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert not np.array_equal(draw(1, 2), draw(2, 2))
    assert not np.array_equal(draw(1, 2), draw(1, 3))


def test_what_is_left_of_a_watched_value_does_not_matter_for_its_gradient(net: Model) -> None:
    both = gradients(net, ["x", "h"], X)
    np.testing.assert_array_equal(both["h"], gradients(net, ["h"], X)["h"])
    np.testing.assert_allclose(both["x"], both["h"] * (1 - np.tanh(X["x"]) ** 2), rtol=1e-5)


def test_it_predicts_what_a_change_inside_costs(minis: Callable[..., Any]) -> None:
    """E[(g' d)^2] is twice the divergence of predictions that a small change d of a linear's output causes."""
    exported = minis("lavt")
    model = canonicalise(load(exported.path))
    linears = list(discover(model).linears.values())
    names = [linears[i].output for i in (0, len(linears) // 2, -1)]
    executor, source = Executor(model), np.random.default_rng(3)
    output, feeds = executor.outputs[0], exported.feeds
    plain = executor.run(feeds, [output, *names])
    changes = {
        name: (0.02 * plain[name].std() * source.normal(size=plain[name].shape)).astype(np.float32) for name in names
    }
    take = Fisher(likelihood="categorical", class_axis=1).at(model, names)
    seen = [take(feeds, index) for index in range(100)]
    p = softmax(plain[output].astype(np.float64), 1)
    for name in names:
        predicted = np.mean([float((g[name].astype(np.float64) * changes[name]).sum()) ** 2 for g in seen]) / 2
        q = softmax(executor.run({**feeds, name: plain[name] + changes[name]}, [output])[output].astype(np.float64), 1)
        divergence = float((p * np.log(p / q)).sum())
        print(predicted / divergence)
        # the mean of 100 squares of a normal variable deviates by a seventh
        assert predicted == pytest.approx(divergence, rel=0.5)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (["apart"], {}, "does not depend on tensor 'apart'"),
        (["h", "apart"], {}, "does not depend on tensor 'apart'"),
        (["other"], {}, "does not depend on tensor 'other'"),
        (["h"], {"output": "dead"}, "at tensor 'h' is zero everywhere"),
        (["kind"], {}, "does not depend on tensor 'kind'"),
    ],
)
def test_no_gradient_is_an_error_of_its_own(
    net: Model, values: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(NoGradient, match=message):
        gradients(net, values, X, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "categoric"}, "unknown likelihood 'categoric'; did you mean 'categorical'"),
        ({"output": "logit"}, "no output 'logit'; did you mean 'logits'"),
        ({"likelihood": "categorical", "class_axis": 0}, r"shape \(1, 3, 4\) has no classes along axis 0"),
        ({"likelihood": "categorical", "class_axis": 3}, "no classes along axis 3"),
    ],
)
def test_wrong_options_are_refused(net: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradients(net, ["h"], X, **options)


class Weighted:
    """The sum of squared gradients, and the samples it was of."""

    def __init__(self) -> None:
        self.total, self.seen = 0.0, 0

    def update(self, x: np.ndarray, gradient: np.ndarray) -> None:
        assert gradient.shape == x.shape
        self.total, self.seen = self.total + float(np.square(gradient, dtype=np.float64).sum()), self.seen + 1

    def merge(self, other: Any) -> Any:
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        return {"state": np.array([self.total, self.seen])}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        self.total, self.seen = float(arrays["state"][0]), int(arrays["state"][1])


def test_the_engine_hands_gradients_to_searches(net: Model) -> None:
    from onnxptq.calibration.sources.inputs import input_specs

    samples = [{"x": np.random.default_rng(i).normal(size=(1, 3, 4)).astype(np.float32)} for i in range(3)]
    source = open_source(samples, inputs=input_specs(net, {}), samples=None, preprocess="raw", seed=0, shapes={})
    engine = Engine(net, source, gradients=Fisher(likelihood="categorical", seed=5))
    found = engine.fill({"h": Request("h", Weighted(), partners=(gradient_of("h"),))}, stage="test")["h"]
    assert isinstance(found, Weighted)
    assert found.seen == 3
    wanted = [
        np.square(gradients(net, ["h"], sample, likelihood="categorical", seed=5, index=i)["h"]).sum()
        for i, sample in enumerate(samples)
    ]
    assert found.total == pytest.approx(sum(float(w) for w in wanted), rel=1e-5)
