"""Specs: names, variants and refused attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onnxptq.ops import schemes, specs
from onnxptq.ops.scheme import Scheme

LINEAR: dict[str, Any] = {"x_bits": 8, "w_bits": 8, "K": 4, "N": 5}


def test_names_are_unique() -> None:
    with pytest.raises(TypeError, match="two ops are named RowRange"):
        replace(specs()["RowRange"], doc="again")
    with pytest.raises(TypeError, match="two schemes are named 'uniform'"):
        type("Again", (type(schemes()["uniform"]),), {"name": "uniform"})
    assert isinstance(schemes()["uniform"], Scheme)


def test_wrong_attributes_inputs_and_schemes_are_refused() -> None:
    spec = specs()["QLinear"]
    with pytest.raises(TypeError, match=r"unknown attributes \['colour'\], missing \['x_bits'\]"):
        spec.complete({"w_bits": 8, "K": 1, "N": 1, "colour": 3})
    with pytest.raises(TypeError, match=r"\['w_zero'\] are missing"):
        spec.text(LINEAR, [True, True, True])
    with pytest.raises(TypeError, match="scheme 'uniform' takes inputs"):
        spec.text(LINEAR, [True] * 4)
    with pytest.raises(KeyError):
        spec.text(LINEAR | {"x_scheme": "nonsense"}, [True] * 4)
    with pytest.raises(ValueError, match="epilogue 'tanh'"):
        spec.text(LINEAR | {"epilogue": "tanh"}, [True] * 4 + [False, True, True])
    with pytest.raises(TypeError, match="takes inputs"):
        spec.call(["x"] * 9, ["y"], **LINEAR)
    with pytest.raises(TypeError, match="one type for each"):
        replace(spec, name="Other", types=("float",))


def test_equal_bodies_share_an_overload_and_others_do_not() -> None:
    spec, present = specs()["QLinear"], [True] * 4 + [False, True, True]
    base = spec.overload(LINEAR, present)
    assert spec.overload(LINEAR | {"K": 7}, present) == base, "8-bit codes bring their own shape"
    assert spec.overload(LINEAR | {"w_bits": 6}, present) != base
    assert spec.overload(LINEAR | {"w_bits": 6}, present) != spec.overload(LINEAR | {"w_bits": 6, "K": 7}, present)
    assert spec.overload(LINEAR, [True] * 5 + [True, True]) != base
    assert spec.overload(LINEAR | {"epilogue": "relu"}, present) != base


def test_a_call_carries_all_attributes_and_its_own_function() -> None:
    node, function = specs()["QLinear"].call(
        ["x", "w", "s", "z", None, "p", "q", None], ["y"], name="n", opset=23, **LINEAR
    )
    assert node.input == ["x", "w", "s", "z", "", "p", "q"]
    assert node.overload == function.overload
    assert {a.name for a in node.attribute} == set(specs()["QLinear"].attributes) == set(function.attribute)
    assert function.opset_import[0].version == 23
