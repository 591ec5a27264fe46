"""Guard: inputs of convolutions with large coding errors are relieved, and only these."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxptq import Quantizer
from onnxptq.errors import InputError
from onnxptq.recipe import Recipe
from onnxptq.structure import Role
from tests.graph.build import model

STEM = """
    a = Conv <pads = [1, 1, 1, 1]> (x, first)
    large = Mul(a, thousand)
    both = Concat <axis = 1> (a, large)
    b = Conv <pads = [1, 1, 1, 1]> (both, bad)
    c = Relu(b)
"""
"""The second convolution reads channels ``thousand`` times the others, which its weights ignore."""
TAIL = """
    d = Conv <pads = [1, 1, 1, 1]> (c, good)
    e = Relu(d)
    y = Conv(e, last)
"""
CONSTANTS = {"good": (8, 8, 3, 3), "last": (4, 8, 1, 1)}
PLAIN = {"passes": "off", "selection": "off", "weights.calibrator": "minmax", "conv_input.calibrator": "minmax"}


def network(
    *, spoiled: bool, tail: str = TAIL, output: str = "1,4,12,12", constants: dict[str, Any] = CONSTANTS
) -> onnx.ModelProto:
    """Two convolutions, the second spoiled or not, and what follows; random ``constants`` are given by their shapes."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    bad = weight(8, 16, 3, 3)
    bad[:, 8:] = 0
    return model(
        f"g (float[1,3,12,12] x) => (float[{output}] y) {{ {STEM} {tail} }}",
        first=weight(8, 3, 3, 3),
        thousand=np.array(1000 if spoiled else 1, np.float32),
        bad=bad,
        **{name: weight(*held) if isinstance(held, tuple) else held for name, held in constants.items()},
    )


def samples(count: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def calibrated(bits: str, *, spoiled: bool, **settings: str) -> Quantizer:
    q = Quantizer(network(spoiled=spoiled), bits=bits, settings=PLAIN | settings, threads=1)
    q.calibrate(samples())
    return q


def inputs(q: Quantizer) -> list[str]:
    """The tensors whose codes convolutions read, and their bits."""
    plan = q.plan()
    return [f"{site.tensor}:{plan[key].bits}" for key, site in plan.sites.items() if site.role is Role.CONV_INPUT]


def test_the_input_that_costs_too_much_stays_float() -> None:
    q = calibrated("w8a8", spoiled=True)
    assert inputs(q) == ["c:8"]
    (warning,) = [text for text in q.quantize().report.warnings if text.startswith("guard")]
    assert "1 in float of 2" in warning
    before = calibrated("w8a8", spoiled=True, guard="off")
    assert inputs(before) == ["both:8", "c:8"]
    exact, coded = (one.quantize().report.outputs["y"].sqnr for one in (q, before))
    assert exact is not None
    assert coded is not None
    assert exact > coded + 20


def test_nothing_changes_where_codes_are_worth_it() -> None:
    q = calibrated("w8a8", spoiled=False, **{"guard.below": "12"})
    assert inputs(q) == ["both:8", "c:8"]
    assert not [text for text in q.warnings if text.startswith("guard")]


def test_fewer_bits_become_eight_before_float() -> None:
    """At 4 bits all inputs are too coarse beside weights of 8 bits: they get 8, with ranges at run time."""
    q = calibrated("w8a4", spoiled=False, **{"guard.enough": "80"})
    assert inputs(q) == ["both:8", "c:8"]
    assert {choice.scheme for key, choice in q.plan().items() if key.endswith("conv_input")} == {"token"}
    assert "2 at 8 bits of 2" in q.warnings[-1]


def test_a_format_without_ranges_at_run_time_has_float() -> None:
    proto = network(spoiled=False)
    q = Quantizer(proto, bits="w8a4", format="qdq", settings=PLAIN | {"guard.enough": "80"}, threads=1)
    q.calibrate(samples())
    assert inputs(q) == []
    assert "2 in float of 2" in q.warnings[-1]
    assert q.quantize().report.outputs["y"].sqnr > 25


def test_enough_is_enough() -> None:
    assert inputs(calibrated("w8a8", spoiled=True, **{"guard.enough": "-50"})) == ["both:8", "c:8"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("guard.belo", "1", "did you mean 'below'"),
        ("guard.below", "true", "expected a number of dB"),
        ("guard.on", "3", "expected true or false"),
    ],
)
def test_wrong_limits(key: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe.load("auto", {key: value})


def test_weights_that_cost_too_much_stay_float_too() -> None:
    """A convolution whose weights are a thousand times larger where its input is always zero, beside linears."""
    rng = np.random.default_rng(0)
    bad = (rng.normal(size=(8, 16, 3, 3)) / 12).astype(np.float32)
    bad[:, 8:] *= 1000
    proto = model(
        """g (float[1,3,12,12] x) => (float[1,144,4] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, first)
            none = Mul(a, zero)
            both = Concat <axis = 1> (a, none)
            b = Conv <pads = [1, 1, 1, 1]> (both, bad)
            c = Relu(b)
            d = Conv <pads = [1, 1, 1, 1]> (c, good)
            rows = Reshape(d, dims)
            tokens = Transpose <perm = [0, 2, 1]> (rows)
            e = MatMul(tokens, one)
            f = Relu(e)
            y = MatMul(f, two)
        }""",
        first=rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        zero=np.array(0, np.float32),
        bad=bad,
        good=(rng.normal(size=(8, 8, 3, 3)) / 8).astype(np.float32),
        dims=np.array([1, 8, 144]),
        one=rng.normal(size=(8, 16)).astype(np.float32),
        two=rng.normal(size=(16, 4)).astype(np.float32),
    )
    q = Quantizer(proto, settings=PLAIN, threads=1)
    q.calibrate(samples())
    left = {site.tensor for site in q.plan().sites.values()}
    assert "good" in left
    assert not {"bad", "both"} & left
    assert "convolutions, weights included, cost" in q.warnings[-1]
    result = q.quantize()
    assert result.report.outputs["y"].sqnr > 30
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert any(v.shape == bad.shape and np.allclose(v.astype(np.float32), bad, rtol=1e-3) for v in kept.values())
