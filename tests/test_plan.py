"""Plans are data: they survive JSON bit for bit, can be edited, and name their model and recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Part, Role, Site

WEIGHT = Site("w", "linear", Role.WEIGHT, channels=3, axis=1)
INPUT = Site("x", "linear", Role.LINEAR_INPUT, Part.TEXT)


def a_plan(channels: int = 3) -> Plan:
    scale = np.resize(np.array([0.1, 1 / 3, 2e-30], np.float32), (1, channels))
    params = UniformParams(6, scale, np.resize(np.array([0, 31, 63], np.uint8), (1, channels)))
    return Plan(
        {
            WEIGHT: Choice("uniform", "omse", 6, "channel", params=params),
            INPUT: Choice("token", "token", 8, "row", options={"candidates": ["a", "b"]}),
        },
        recipe="mine",
        bits="w6a8",
        passes={"fold-bn": {}, "smooth": {"alpha": 0.5}},
        model="0123",
    )


@pytest.mark.parametrize("channels", [3, 16, 17, 4096])
def test_json_round_trip_is_exact(channels: int) -> None:
    plan = a_plan(channels)
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert again.sites == plan.sites
    assert (again.recipe, again.bits, again.model, again.notes) == ("mine", "w6a8", "0123", ())
    assert again.passes == plan.passes
    params = again["linear:weight"].params
    assert isinstance(params, UniformParams)
    assert params.scale.dtype == np.float32
    assert params == plan["linear:weight"].params
    assert again["linear:linear_input"].options == {"candidates": ["a", "b"]}


def test_a_plan_is_compact_and_readable() -> None:
    lines = a_plan(4096).to_json().splitlines()
    assert sum('"tensor"' in line for line in lines) == 2
    assert len(a_plan(4096).to_json()) < 4096 * 7 + 2000
    assert '"scale": [[0.1, 0.33333334, 2e-30]]' in a_plan().to_json()
    assert '"range": [2e-30, 0.33333334]' in a_plan(4096).to_json()


@pytest.mark.parametrize("name", sorted(schemes()))
def test_every_scheme_survives_json(name: str) -> None:
    scheme = schemes()[name]
    for bits in (3, 4, 6):
        params = next(iter(scheme.grid(-1.5, 2.5, bits)))
        plan = Plan({INPUT: Choice(name, "omse", bits, params=params)})
        assert Plan.from_json(plan.to_json())["linear:linear_input"].params == params


def test_override() -> None:
    plan = a_plan().override("^linear:", bits=4, scheme="uniform")
    assert (plan["linear:linear_input"].bits, plan["linear:linear_input"].scheme) == (4, "uniform")
    assert (plan["linear:weight"].bits, plan["linear:weight"].params) == (4, None)
    with pytest.raises(InputError, match="matches no site"):
        a_plan().override("nothing", bits=4)


def edited(**changes: Any) -> str:
    """The plan's text with fields of its first site changed."""
    data = json.loads(a_plan().to_json())
    data["sites"][0] |= changes
    return json.dumps(data)


@pytest.mark.parametrize(
    "changes",
    [{"bits": 4}, {"symmetric": True}, {"granularity": "tensor"}, {"calibrator": "minmax"}, {"options": {"a": 1}}],
)
def test_parameters_of_an_edited_site_are_found_anew(changes: dict[str, Any]) -> None:
    plan = Plan.from_json(edited(**changes), name="p.json")
    assert plan["linear:weight"].params is None
    assert plan.notes == ("p.json: site linear:weight was edited; its parameters are found anew",)


@pytest.mark.parametrize(("key", "value"), [("model", "other"), ("passes", {})])
def test_parameters_of_other_folds_or_models_are_found_anew(key: str, value: Any) -> None:
    data = json.loads(a_plan().to_json()) | {key: value}
    plan = Plan.from_json(json.dumps(data))
    assert plan["linear:weight"].params is None
    assert len(plan.notes) == 1


def test_float_leaves_a_site_out() -> None:
    assert list(Plan.from_json(edited(scheme="float"))) == ["linear:linear_input"]


def test_edited_numbers_are_obeyed() -> None:
    text = a_plan().to_json().replace("0.33333334", "0.25")
    params = Plan.from_json(text)["linear:weight"].params
    assert isinstance(params, UniformParams)
    assert params.scale[0, 1] == 0.25


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a plan"),
        ("[]", "not a plan"),
        ("{}", "it has no 'format'"),
        ("[" * 5000, "nested too deeply"),
        ('{"format": 99}', "plan format 99"),
        ('{"format": 2, "sites": 3}', "it has no"),
        (a_plan().to_json().replace('"token"', '"tokne"', 1), "unknown scheme 'tokne'; did you mean 'token'"),
        (a_plan().to_json().replace("[[0.1,", "[[NaN,"), "NaN is not a number"),
        (a_plan().to_json().replace("[[0.1,", "[[1e999,"), "finite"),
        (a_plan().to_json().replace("[[0.1,", "[[-0.1,"), "scale must be positive"),
        (a_plan(99).to_json().replace('"base64": "', '"base64": "!'), "not a plan"),
        (a_plan(99).to_json().replace('"shape": [1, 99]', '"shape": [1, 98]'), "not a plan"),
        (a_plan(99).to_json().replace('"shape": [1, 99]', f'"shape": [1, {2**70}]'), "not a plan"),
        (a_plan(99).to_json().replace('"dtype": "float32"', '"dtype": "object"'), "unknown type 'object'"),
        (edited(bits=99), "99 is not between 2 and 8"),
        (edited(bits=True), "not a whole number"),
        (edited(bits="4"), "not a whole number"),
        (edited(axis=99), "99 is not between"),
        (edited(role="wieght"), "not a valid Role"),
        (edited(part=3), "not a valid Part"),
        (edited(symetric=True), "no field 'symetric'; did you mean 'symmetric'"),
        (edited(symmetric=1), "symmetric: expected"),
        (edited(options=3), "options: expected a table"),
        (edited(tensor=3), "tensor: expected a text"),
        (edited(params=3), "expected a table"),
        (edited(params={"bits": 6}), "not a plan"),
        (edited(consumer="linear", role="linear_input", part="text", tensor="x"), "is there twice"),
    ],
)
def test_strange_files(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=word) as error:
        Plan.load(path)
    assert str(error.value).startswith((f"{path}: ", "UniformParams: "))
    assert "\n" not in str(error.value)


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: cannot read the plan"):
        Plan.load("nowhere.json")
