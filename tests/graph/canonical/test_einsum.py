"""Einsum with one summed letter becomes MatMul; the others stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.build import model, normal, ops, preserved

SIZES = {"a": 2, "b": 3, "i": 4, "j": 5, "k": 6, "r": 7}


def einsum(equation: str) -> tuple[object, dict[str, np.ndarray]]:
    terms, out = equation.split("->")
    shapes = [[SIZES[c] for c in term] for term in terms.split(",")]
    text = ",".join(str(s) for s in [SIZES[c] for c in out])
    inputs = ", ".join(f"float[{','.join(map(str, s))}] {n}" for n, s in zip("xz", shapes, strict=True))
    proto = model(f'g ({inputs}) => (float[{text}] y) {{ y = Einsum<equation="{equation}">(x, z) }}')
    return proto, {n: normal(*s, seed=i) for i, (n, s) in enumerate(zip("xz", shapes, strict=True))}


@given(st.data())
def test_random_products(data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from(["", "a", "ab"]))
    extra = data.draw(st.sampled_from(["", "r"]))
    left = "".join(data.draw(st.permutations(batch + extra + "ik")))
    right = "".join(data.draw(st.permutations(batch + "kj")))
    out = "".join(data.draw(st.permutations(batch + extra + "ij")))
    terms = data.draw(st.permutations([left, right]))
    proto, feeds = einsum(f"{terms[0]},{terms[1]}->{out}")
    held = preserved(proto, feeds)  # type: ignore[arg-type]
    assert ops(held)["Einsum"] == 0
    assert ops(held)["MatMul"] == 1


@pytest.mark.parametrize("equation", ["ab,ab->ab", "aik,ajk->ij", "ik,jr->ikjr", "ik,ik->i", "ai,aj->aij"])
def test_others_stay(equation: str) -> None:
    proto, feeds = einsum(equation)
    assert ops(preserved(proto, feeds))["Einsum"] == 1  # type: ignore[arg-type]
