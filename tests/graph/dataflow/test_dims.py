"""Arithmetic of symbols agrees with arithmetic of their numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.dataflow import dims
from onnxptq.graph.dataflow.dims import Dim
from tests.graph.build import concrete

SIZES = {"N": 3, "T": 5, "H": 8}
DIMS = st.one_of(
    st.integers(0, 40),
    st.sampled_from(["N", "T", "H"]),
    st.builds(dims.mul, st.integers(1, 9), st.sampled_from(["N", "H", "N*T"])),
)


def number(dim: Dim) -> int:
    found = concrete(dim, SIZES)
    assert found is not None
    return found


@given(DIMS, DIMS)
def test_products_and_quotients(a: Dim, b: Dim) -> None:
    assert number(dims.mul(a, b)) == number(a) * number(b)
    assert dims.mul(a, b) == dims.mul(b, a)
    if number(a) and number(b):
        assert dims.quotient(dims.mul(a, b), b) == a
    exact = dims.quotient(a, b)
    if exact is not None:
        assert number(exact) * number(b) == number(a)


@given(DIMS, DIMS)
def test_sums(a: Dim, b: Dim) -> None:
    for function, wanted in ((dims.add, number(a) + number(b)), (dims.sub, number(a) - number(b))):
        found = concrete(function(a, b), SIZES)
        assert found in (wanted, None)


@given(DIMS, st.integers(1, 9))
def test_division_and_remainder(a: Dim, b: int) -> None:
    assert concrete(dims.floordiv(a, b), SIZES) in (number(a) // b, None)
    assert concrete(dims.mod(a, b), SIZES) in (number(a) % b, None)


@given(DIMS, st.one_of(DIMS, st.integers(-3, -1)))
def test_equality_is_said_only_when_certain(a: Dim, b: Dim) -> None:
    found = dims.equal(a, b)
    assert found is None or bool(found) == (number(a) == number(b))
    assert dims.equal(a, a) == 1


def test_division_truncates_as_in_onnx() -> None:
    assert dims.floordiv(-7, 2) == -3
    assert dims.floordiv("N", -2) is None


def test_differences_may_be_negative() -> None:
    assert dims.equal(dims.sub("N", 5), -1) is None


def test_none_stays_none() -> None:
    for function in (dims.add, dims.sub, dims.mul, dims.floordiv, dims.mod, dims.equal, dims.quotient):
        assert function(None, 3) is None
    assert dims.mul(None, 0) == 0


BROADCASTS = [
    ((2, 1, 4), (3, 1), (2, 3, 4)),
    (("N", 1), (5,), ("N", 5)),
    (("N", 4), ("T", 4), (None, 4)),
    ((), ("N",), ("N",)),
    (("N",), (7,), (7,)),
]


@pytest.mark.parametrize(("a", "b", "wanted"), BROADCASTS)
def test_broadcast(a: tuple[Dim, ...], b: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> None:
    assert dims.broadcast(a, b) == wanted
    assert dims.broadcast(b, a) == wanted


def test_expressions_are_not_products() -> None:
    odd = dims.floordiv("N", 2)
    assert odd == "(N // 2)"
    assert dims.mul(odd, 4) == "4*(N // 2)" or dims.quotient(dims.mul(odd, 4), 4) == odd
