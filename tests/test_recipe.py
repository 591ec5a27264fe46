"""Recipes: shipped files, rules, switches, overrides, and errors that name the nearest word."""

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


def test_a_former_name_of_a_section() -> None:
    assert Recipe.load("auto", {"gate": "omse"}) == Recipe.load("auto", {"selection": "omse"})
    assert Recipe.load("auto").extend({"gate": []}).selection == ()


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'minmax'"):
        Recipe.load("minmx")
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load("nowhere.toml")
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        Recipe.load("minmax", {"sofmax.calibrator": "omse"})


WRONG = {
    "weights = 3": "weights: expected a table, got 3",
    "passes = 3": "passes: expected a list, got 3",
    "passes = [3]": "an entry of passes: expected a text",
    "pass = 3": "pass: expected a table",
    "pass.smooth = 3": "smooth: expected a table",
    "pass.smooth.alpha = 'x'": "option 'alpha': expected a number",
    "selection = 'omse'": "selection: expected a list",
    "selection = [[]]": "an entry of selection: expected a text",
    "selection = ['omsee']": "did you mean 'omse'",
    "roles = []": "roles: expected a table",
    "roles.gelu = 1": "gelu: expected a table",
    "rules = 3": "rules: expected a list",
    "rules = [3]": "rule 1: expected a table",
    "[[rules]]\nroles = 'gelu'": "roles: expected a list",
    "[[rules]]\nroles = [1]": "an entry of roles",
    "[[rules]]\npattern = '('": "not a regular expression",
    "[[rules]]\npattern = 3": "pattern of rule 1: expected a text",
    "settings = 3": "settings: expected a table",
    "settings.a = 3": "settings.a: expected a table",
    "settings.a.b = 3": "settings.a.b: expected a table",
    "settings.a.b.wieghts = 3": "did you mean 'weights'",
    "settings.a.default = 'b'": "knows",
    "description = 3": "description: expected a text",
    "weights.bits = true": "bits = True",
    "weights.bits = '4'": "bits = '4'",
    "weights.bits = 4.0": "bits = 4.0",
    "weights.bits = 99999999999999999999": "use 2 to 8",
    "weights.symmetric = 1": "symmetric = 1: write true or false",
    "weights.symetric = true": "no option 'symetric'.*did you mean 'symmetric'",
    "weights.scheme = [1]": "unknown scheme",
    "weights.calibrator = 3": "unknown calibrator 3",
    "weights.granularity = {}": "unknown granularity",
    "activations.percentile = 200": "no option 'percentile'",
    "activations.nope = 3": "no option 'nope' of calibrator 'minmax'|no option 'nope' of calibrator minmax",
    "activations = {calibrator = 'drq', n = -1}": "option 'n': -1 is not in 1 .. 10000",
    "activations = {calibrator = 'drq', n = 'x'}": "option 'n': expected a whole number",
    "activations = {calibrator = 'drq', alpha = 2.0}": "alpha = 2.0 must be less than beta",
    "activations = {calibrator = 'omse', steps = -1}": "no option 'steps'",
    "activations = {calibrator = 'omse', tau = 2.0}": "no option 'tau'",
    "activations = {calibrator = 'best'}": "needs `candidates`",
    "activations = {calibrator = 'best', candidates = 3}": "option 'candidates': expected a list",
    "activations = {calibrator = 'best', candidates = ['omsee']}": "did you mean 'omse'",
    "activations = {calibrator = 'best', candidates = ['best']}": "names of others",
    "activations = {calibrator = 'best', candidates = ['lloyd'], largest = 500}": "largest': 500 is not in 1 .. 127",
    "activations = {calibrator = 'agq', taus = 'x'}": "option 'taus': unknown 'x'",
    "activations = {calibrator = 'agq', taus = [true]}": "tau True does not fit",
    "activations = {calibrator = 'percentile', tau = nan}": "option 'tau': expected a number",
    "weights = {calibrator = 'asymmetric', rows = -1}": "option 'rows': -1 is not in",
    "weights = {calibrator = 'asymmetric', solve = 1}": "option 'solve': expected true or false",
    "weights = {calibrator = 'avgminmax'}": "calibrator 'avgminmax' is not for weights",
    "weights = {scheme = 'table'}": "weights have scheme 'uniform', not 'table'",
    "weights = {granularity = 'row'}": "not per row",
    "activations = {calibrator = 'asymmetric'}": "calibrator 'asymmetric' is not for activations",
    "[" * 5000: "nested too deeply|not valid TOML",
    "a = " + "[" * 5000: "nested too deeply",
    "a = " + "9" * 5000: "not valid TOML",
    "a = 1\na = 2": "not valid TOML",
    "\udcff": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_recipes_end_before_any_work(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=WRONG[text]) as error:
        Recipe.load(path).plan(STRUCTURE, Bits(8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", Recipe.names())
def test_every_setting_of_shipped_recipes_is_checked(name: str) -> None:
    recipe = Recipe.load(name)
    for key, values in recipe.switches.items():
        for value in values:
            Recipe.load(name, {key: value}).plan(STRUCTURE, Bits(4, 4))


def test_an_option_that_no_calibrator_takes() -> None:
    with pytest.raises(InputError, match="no option 'metric' of calibrator omse"):
        Recipe.load("omse", {"activations.metric": "mse"})
    with pytest.raises(InputError, match="'hessian' is none of 'fisher', 'mse'"):
        Recipe.load("ptq4ris", {"activations.metric": "hessian"})


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, "1\nw = 2", "\x00"])
def test_settings_that_are_no_toml_are_texts(value: str) -> None:
    with pytest.raises(InputError, match="unknown calibrator"):
        Recipe.load("omse", {"weights.calibrator": value})
