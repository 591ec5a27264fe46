"""Recipes: shipped files, rules, switches, overrides, and errors that name the nearest thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxptq.bits import Bits
from onnxptq.errors import InputError
from onnxptq.recipe import Recipe
from onnxptq.structure import Part, Role, Site, Structure

SITES = (
    Site("first_w", "first", Role.WEIGHT, default=False),
    Site("image", "first", Role.CONV_INPUT, default=False),
    Site("w", "linear", Role.WEIGHT, channels=8, axis=1),
    Site("x", "linear", Role.LINEAR_INPUT, channels=4),
    Site("g", "mlp", Role.GELU, Part.TEXT),
    Site("p", "av", Role.SOFTMAX),
)
STRUCTURE = Structure(sites=SITES)


@pytest.mark.parametrize(
    ("text", "weights", "activations"), [("w8a8", 8, 8), ("W4A32", 4, 32), ("w32a6", 32, 6), (" w2a3 ", 2, 3)]
)
def test_bits(text: str, weights: int, activations: int) -> None:
    assert Bits.parse(text) == Bits(weights, activations)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("w9a8", "weights of 9 bits"),
        ("w8a1", "activations of 1 bits"),
        ("8", "wXaY"),
        ("w32a32", "nothing to quantize"),
    ],
)
def test_bits_errors(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Bits.parse(text)


@pytest.mark.parametrize("name", Recipe.names())
def test_shipped_recipes_plan(name: str) -> None:
    recipe = Recipe.load(name)
    plan, warnings = recipe.plan(STRUCTURE, Bits(4, 6))
    assert recipe.description
    assert not warnings
    assert list(plan) == ["linear:weight", "linear:linear_input", "mlp:gelu", "av:softmax"]
    assert plan["linear:weight"].bits == 4
    assert plan["linear:weight"].granularity == "channel"
    assert {plan[key].bits for key in list(plan)[1:]} == {6}


@pytest.mark.parametrize("outliers", [None, "on", "off"])
def test_outlier_groups_of_text_are_a_switch(outliers: str | None) -> None:
    plan, _ = Recipe.load("auto", {"outliers": outliers} if outliers else {}).plan(STRUCTURE, Bits(4, 6))
    assert ("rorq" in plan["mlp:gelu"].options["candidates"]) == (outliers == "on")
    assert "rorq" not in plan["linear:linear_input"].options["candidates"], "that one is not text"


def test_float_widths_leave_sites_out() -> None:
    weights_only, _ = Recipe.load("minmax").plan(STRUCTURE, Bits(4, 32))
    activations_only, _ = Recipe.load("minmax").plan(STRUCTURE, Bits(32, 8))
    assert list(weights_only) == ["linear:weight"]
    assert "linear:weight" not in activations_only


def test_scope_patterns() -> None:
    plan, warnings = Recipe.load("minmax").plan(
        STRUCTURE, Bits(8, 8), exclude=["^mlp:", "nothing"], include=["^first:"]
    )
    assert "mlp:gelu" not in plan
    assert {"first:weight", "first:conv_input"} <= set(plan)
    assert len(warnings) == 1
    assert "'nothing' matches no site" in warnings[0]


def test_later_rules_win(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "mine"\n[activations]\ncalibrator = "omse"\n[roles.gelu]\ncalibrator = "percentile"\n'
        '[[rules]]\nparts = ["text"]\nsymmetric = true\n[[rules]]\n'
        'pattern = "^linear:linear"\ngranularity = "channel"\n'
    )
    plan, _ = Recipe.load(path).plan(STRUCTURE, Bits(8, 8))
    assert (plan["mlp:gelu"].calibrator, plan["mlp:gelu"].symmetric) == ("percentile", True)
    assert (plan["linear:linear_input"].calibrator, plan["linear:linear_input"].granularity) == ("omse", "channel")
    assert plan["av:softmax"].symmetric is False


def test_settings() -> None:
    recipe = Recipe.load("minmax", {"softmax.calibrator": "omse", "weights.symmetric": "true", "passes": "fold-bn"})
    plan, _ = recipe.plan(STRUCTURE, Bits(8, 8))
    assert plan["av:softmax"].calibrator == "omse"
    assert plan["linear:weight"].symmetric is True
    assert recipe.passes == ("fold-bn",)


def test_switch(tmp_path: Path) -> None:
    path = tmp_path / "switched.toml"
    path.write_text(
        'description = "d"\n[settings.observer]\ndefault = "omse"\n'
        '[settings.observer.omse.activations]\ncalibrator = "omse"\n'
        '[settings.observer.avgminmax.activations]\ncalibrator = "avgminmax"\n'
    )
    assert Recipe.load(path).plan(STRUCTURE, Bits(8, 8))[0]["av:softmax"].calibrator == "omse"
    assert (
        Recipe.load(path, {"observer": "avgminmax"}).plan(STRUCTURE, Bits(8, 8))[0]["av:softmax"].calibrator
        == "avgminmax"
    )
    with pytest.raises(InputError, match="knows avgminmax, omse"):
        Recipe.load(path, {"observer": "median"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[wieghts]", "did you mean 'weights'"),
        ('[weights]\ncalibrator = "minmx"', "did you mean 'minmax'"),
        ('[weights]\nscheme = "unifrom"', "did you mean 'uniform'"),
        ("[roles.sotfmax]", "did you mean 'softmax'"),
        ('[[rules]]\nparts = ["txt"]', "did you mean 'text'"),
        ('passes = ["fold-nb"]', "did you mean 'fold-bn'"),
        ("[pass.fold-bn]\nspeed = 1", "no option 'speed'"),
        ("not toml", "not valid TOML"),
    ],
)
def test_recipe_errors_name_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.load(path)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'minmax'"):
        Recipe.load("minmx")
    with pytest.raises(InputError, match="cannot read it"):
        Recipe.load("nowhere.toml")
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        Recipe.load("minmax", {"sofmax.calibrator": "omse"})
