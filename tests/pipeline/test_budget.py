"""Budgets: average width, size and quality are kept; a wish that cannot be kept is answered in one line."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.bits import Bits
from onnxptq.errors import InputError
from onnxptq.plan import Plan
from onnxptq.result import Result
from onnxptq.structure import Role
from tests.passes.graphs import Builder
from tests.pipeline.test_asymmetric import MODEL, SAMPLES

PLAIN = {"passes": "off", "selection": "off", "weights.calibrator": "omse", "activations.calibrator": "minmax"}


def quantizer(**options: object) -> Quantizer:
    return Quantizer(MODEL, include=[".*"], settings=PLAIN, threads=1, **options)  # type: ignore[arg-type]


@cache
def result(**options: object) -> Result:
    q = quantizer(**options)
    q.calibrate(SAMPLES, limit=8)
    return q.quantize()


def bits(plan: Plan, *, weights: bool) -> list[int]:
    return [choice.bits for key, choice in plan.items() if (plan.sites[key].role is Role.WEIGHT) == weights]


def elements(plan: Plan) -> dict[str, int]:
    """Sizes of the weights: two linears a block, a convolution, the last linear."""
    sizes = (16 * 32, 32 * 16, 16 * 16 * 9, 16 * 32, 32 * 16, 16 * 8)
    return dict(zip([key for key in plan if plan.sites[key].role is Role.WEIGHT], sizes, strict=True))


def test_an_average_is_kept_with_more_than_one_width() -> None:
    plan = result(bits="auto:4.5").plan
    sizes = elements(plan)
    assert sum(plan[key].bits * size for key, size in sizes.items()) <= 4.5 * sum(sizes.values())
    assert len(set(bits(plan, weights=True))) > 1
    assert len(set(bits(plan, weights=False))) > 1
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()
    assert any(text.startswith("widths: weights of") for text in result(bits="auto:4.5").report.warnings)


def test_a_file_has_the_wished_size() -> None:
    b, x = Builder(1), "x"
    for _ in range(12):
        x = b.node("Relu", b.linear(x, b.floats(80, 80, scale=0.15), b.floats(80)))
    b.linear(x, b.floats(80, 8), b.floats(8), out="y")
    model, _ = b.build({"x": [4, 80]}, ["y"])
    samples = [{"x": np.random.default_rng(i).standard_normal((4, 80)).astype(np.float32)} for i in range(12)]
    wished = 50_000
    q = Quantizer(model.to_proto(), bits="w8a32", include=[".*"], settings=PLAIN, threads=1, max_size=wished)
    q.calibrate(samples, limit=8)
    assert 0.98 * wished <= q.quantize().report.sizes.after <= wished
    assert len(set(bits(q.plan(), weights=True))) > 1


def test_a_wished_quality_takes_the_smallest_weights() -> None:
    strict, loose = (result(bits="w8a8", min_sqnr=wish) for wish in (30.0, 15.0))
    for found, wish in ((strict, 30), (loose, 15)):
        assert found.report.bits == "mixed widths up to w8a8"
        sqnr = found.report.outputs["y"].median
        assert sqnr is not None
        assert sqnr > wish - 1
    assert sum(bits(loose.plan, weights=True)) < sum(bits(strict.plan, weights=True)) < 6 * 8


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"max_size": 100}, "--max-size 0.1 kB: weights of 2 bits and the constants alone take"),
        ({"max_size": 5000}, "--max-size"),
        ({"min_sqnr": 99.0}, "--min-sqnr 99: not possible here"),
        ({"max_loss": 0.5}, "no output of model is a mask"),
    ],
)
def test_an_impossible_wish(wish: dict[str, float], words: str) -> None:
    with pytest.raises(InputError) as error:
        result(bits="w8a8", **wish)
    assert words in str(error.value)


def test_bits_of_an_average() -> None:
    assert str(Bits.parse("auto:4.50")) == "auto:4.5"
    for text in ("auto:1.9", "auto:9"):
        with pytest.raises(InputError, match="out of range"):
            Bits.parse(text)
    with pytest.raises(InputError, match=r"auto:4\.5"):
        Bits.parse("auto")
    with pytest.raises(InputError, match="--max-loss -1"):
        quantizer(max_loss=-1.0)


def test_the_same_widths_again() -> None:
    q = quantizer(bits="auto:3.5")
    first, second = (q.calibrate([dict(s) for s in SAMPLES], limit=8).to_json() for _ in range(2))
    assert first == second
    assert np.mean(bits(Plan.from_json(first), weights=True)) > 2


def test_other_recipes_get_the_same_widths_or_the_narrowest() -> None:
    q = quantizer(bits="auto:4")
    q.calibrate(SAMPLES, limit=8)
    other = q.config.by(q.config.recipe)
    assert other.widths == {key: choice.bits for key, choice in q.plan().items()}
    assert (other.bits.weights, other.bits.activations) == tuple(min(bits(q.plan(), weights=w)) for w in (True, False))
    assert str(other.bits) == "auto:4"
