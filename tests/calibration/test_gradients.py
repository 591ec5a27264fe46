"""Requests get gradients as partners: from any source, in every group of tensors, and never all zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.gradients import NoGradient, Weights, gradient_of, is_gradient, require_live, subject
from onnxptq.calibration.statistics.base import F32, Request
from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from tests.calibration.small import mlp, samples, source

SHAPES = {"h": (2, 6, 16), "g": (2, 6, 16), "y": (2, 6, 4)}


class Numbered:
    """Gradients that say for which tensor and sample they were asked."""

    def __init__(self, *, zero: Sequence[str] = ()) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.zero = zero

    def at(self, model: Model, tensors: Sequence[str]) -> Any:
        self.asked.append(tuple(tensors))

        def take(sample: Mapping[str, Any], index: int) -> dict[str, F32]:
            return {
                t: np.full(SHAPES[t], 0 if t in self.zero else (index + 1) * len(t + "x" * (t == "y")), np.float32)
                for t in tensors
            }

        return take


class Pairs:
    """Sums of squared gradients, and whether tensor and gradient came together."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def update(self, x: F32, gradient: F32) -> None:
        assert x.shape == gradient.shape
        self.sums.append(float(np.square(gradient).mean()))

    def merge(self, other: Pairs) -> Pairs:
        both = Pairs()
        both.sums = self.sums + other.sums
        return both

    def arrays(self) -> dict[str, Any]:
        return {"sums": np.array(self.sums)}

    def load(self, arrays: dict[str, Any]) -> None:
        self.sums = list(arrays["sums"])


def requests(*names: str) -> dict[str, Request]:
    return {name: Request(name, Pairs(), partners=(gradient_of(name),)) for name in names}


def test_names() -> None:
    assert is_gradient(gradient_of("x"))
    assert not is_gradient("x")
    assert subject(gradient_of("x")) == subject("x") == "x"


@pytest.mark.parametrize(("limit", "groups"), [(None, [("h", "g", "y")]), (1, [("h",), ("g",), ("y",)])])
@pytest.mark.parametrize("observers", [False, True])
def test_each_request_gets_the_gradient_at_its_tensor(
    limit: int | None, groups: list[tuple[str, ...]], observers: bool
) -> None:
    held, given, numbered = mlp(), samples(3), Numbered()
    engine = Engine(held, source(held, given), memory_limit=limit, threads=1, observers=observers, gradients=numbered)
    found: Any = engine.fill(requests("h", "g", "y"), stage="walk")
    assert numbered.asked == groups
    assert found["h"].sums == found["g"].sums == [1.0, 4.0, 9.0]
    assert found["y"].sums == [4.0, 16.0, 36.0]


def test_without_gradients_nobody_is_asked() -> None:
    held, given, numbered = mlp(), samples(1), Numbered()
    engine = Engine(held, source(held, given), threads=1, gradients=numbered)
    engine.fill({"h": Request("h", Pairs(), partners=("g",))}, stage="walk")
    assert not numbered.asked


def test_gradients_that_nobody_computes_are_an_error_that_says_what_to_do() -> None:
    held = mlp()
    with pytest.raises(InputError, match=r"tensor 'g'.*extra \[learn\]"):
        Engine(held, source(held, samples(1)), threads=1).fill(requests("h", "g"), stage="walk")


def test_gradients_that_are_zero_on_every_sample_are_an_error() -> None:
    held = mlp()
    engine = Engine(held, source(held, samples(2)), threads=1, gradients=Numbered(zero=("g",)))
    with pytest.raises(NoGradient, match="tensor 'g' is zero on every sample"):
        engine.fill(requests("h", "g"), stage="walk")


def test_zero_on_some_samples_is_none() -> None:
    class Once:
        def at(self, model: Model, tensors: Sequence[str]) -> Any:
            return lambda sample, index: {t: np.full(1, index == 1, np.float32) for t in tensors}

    weights = Weights(Once(), mlp(), ["y", gradient_of("y")])
    assert [float(weights({}, i)[gradient_of("y")][0]) for i in range(3)] == [0, 1, 0]
    require_live(["y", gradient_of("y")], {gradient_of("y")})
    with pytest.raises(NoGradient, match="tensor 'y' is zero"):
        require_live([gradient_of("y")], ())
