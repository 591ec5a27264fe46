"""Plans are data: they survive JSON bit for bit, and can be edited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Part, Role, Site

WEIGHT = Site("w", "linear", Role.WEIGHT, channels=3, axis=1)
INPUT = Site("x", "linear", Role.LINEAR_INPUT, Part.TEXT)


def a_plan() -> Plan:
    scale = np.array([[0.1, 1 / 3, 2e-30]], np.float32)
    params = UniformParams(6, scale, np.array([[0, 31, 63]], np.uint8))
    return Plan(
        {
            WEIGHT: Choice("uniform", "omse", 6, "channel", params=params),
            INPUT: Choice("token", "token", 8, "row", options={"candidates": ["a", "b"]}),
        },
        recipe="mine",
        bits="w6a8",
    )


def test_json_round_trip_is_exact() -> None:
    plan = a_plan()
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert again.sites == plan.sites
    assert (again.recipe, again.bits) == ("mine", "w6a8")
    params = again["linear:weight"].params
    assert isinstance(params, UniformParams)
    assert params.scale.dtype == np.float32
    assert params == plan["linear:weight"].params
    assert again["linear:linear_input"].options == {"candidates": ["a", "b"]}


@pytest.mark.parametrize("name", sorted(schemes()))
def test_every_scheme_survives_json(name: str) -> None:
    scheme = schemes()[name]
    params = next(iter(scheme.grid(-1.5, 2.5, 4)))
    plan = Plan({INPUT: Choice(name, "omse", 4, params=params)})
    assert Plan.from_json(plan.to_json())["linear:linear_input"].params == params


def test_override() -> None:
    plan = a_plan().override("^linear:linear", bits=4, scheme="uniform")
    assert (plan["linear:linear_input"].bits, plan["linear:linear_input"].scheme) == (4, "uniform")
    assert plan["linear:weight"].bits == 6
    with pytest.raises(InputError, match="matches no site"):
        a_plan().override("nothing", bits=4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a plan"),
        ("[]", "not a plan"),
        ('{"format": 99}', "plan format 99"),
        ('{"format": 1, "sites": [{"site": {}}]}', "not a plan"),
        (a_plan().to_json().replace('"token"', '"tokne"'), "not a plan"),
        (a_plan().to_json().replace("0.10000000149011612", "NaN"), "finite"),
    ],
)
def test_strange_files(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=word):
        Plan.read(path)


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: cannot read the plan"):
        Plan.read("nowhere.json")
