"""Allocation: near the best widths of all, within the budget; queries and keys alike."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from onnxptq.pipeline.allocation import allocate, average, predicted
from onnxptq.pipeline.sensitivity import Sensitivity
from onnxptq.structure import Role, Site


def one(name: str, role: Role, size: int, error: float) -> Sensitivity:
    return Sensitivity(Site(name, name, role), size, {width: error * 4.0**-width for width in range(2, 9)})


@pytest.mark.parametrize("seed", range(5))
def test_near_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = {
        f"s{i}": one(f"s{i}", Role.WEIGHT, int(rng.integers(20, 30)), float(10 ** rng.uniform(0, 3))) for i in range(5)
    }
    budget = 4 * sum(held.size for held in found.values())
    got = allocate(found, budget=budget, widest=6)
    best = min(
        predicted(found, dict(zip(found, widths, strict=True)))
        for widths in product(range(2, 7), repeat=5)
        if sum(held.size * width for held, width in zip(found.values(), widths, strict=True)) <= budget
    )
    assert average(found, got) <= 4
    assert predicted(found, got) <= 1.4 * best


def test_queries_and_keys_have_one_width() -> None:
    found = {
        "q": Sensitivity(Site("q", "qk", Role.QUERY), 10, {w: 100 * 4.0**-w for w in range(2, 9)}),
        "k": Sensitivity(Site("k", "qk", Role.KEY), 10, {w: 1e-6 * 4.0**-w for w in range(2, 9)}),
        "v": one("v", Role.VALUE, 10, 1.0),
    }
    got = allocate(found, budget=120, widest=8)
    assert got["q"] == got["k"] > got["v"]


def test_a_large_budget_gives_the_widest() -> None:
    assert allocate({"a": one("a", Role.WEIGHT, 3, 1.0)}, budget=1e9, widest=7) == {"a": 7}
