"""Options without a value list what there is; each setting that is listed exists, and its value is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxptq.recipe import Recipe
from onnxptq.targets.target import Target
from tests.cli.conftest import Run


def listed(run: Run, *argv: str) -> dict[str, str]:
    done = run(*argv)
    assert (done.code, done.err) == (0, "")
    return dict(re.findall(r"^([^\s;]+) +(\S.*)$", done.out, re.MULTILINE))


def test_recipes_and_targets(run: Run) -> None:
    """No model is needed."""
    assert listed(run, "quantize", "--recipe").keys() == {*Recipe.names(), "FILE.toml"}
    assert listed(run, "quantize", "--target").keys() == {*Target.names()}
    assert listed(run, "inspect", "--recipe").keys() == {*Recipe.names(), "FILE.toml"}


@pytest.mark.parametrize("name", Recipe.names())
def test_settings(run: Run, name: str) -> None:
    found = listed(run, "quantize", "--recipe", name, "--set")
    assert {"passes", "selection", "weights.bits", "activations.granularity"} <= found.keys()
    recipe = Recipe.load(name)
    assert recipe.switches.keys() <= found.keys()
    for key, about in found.items():
        now = re.search(r"; now ([^ ]+)", about)
        if now and now[1] != "none" and "list" not in about and "text" not in about:
            recipe = Recipe.load(recipe, {key: now[1]})
    for key in recipe.switches:
        for value in found[key].split(" or "):
            Recipe.load(name, {key: value})


def test_the_value_a_recipe_has(run: Run) -> None:
    assert "now balanced" in listed(run, "quantize", "--set")["pass.ln-reparam.rule"]
    assert "now 0.1 " in listed(run, "quantize", "--set")["weights.damp"]


def test_alone_the_command_prints_its_help(run: Run) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    assert "quantize" in done.out


def test_former_names_of_options(run: Run, folder: Path) -> None:
    """They work, and no help lists them."""
    quick = ("vision.onnx", "--recipe", "rtn", "--threads", "1")
    assert run("quantize", *quick, "--data", "synthetic", "--limit", "2", "--out", "q.onnx", "--no-speed").code == 0
    assert (folder / "q.onnx").is_file()
    assert run("sensitivity", *quick, "--calib", "synthetic", "--samples", "2", "--page", "s.html").code == 0
    assert "<svg" in (folder / "s.html").read_text()
    for command in ("quantize", "sensitivity", "package", "table"):
        shown = run(command, "--help").out
        assert not any(f" {name} " in shown for name in ("--out", "--page"))
    for command in ("check", "inspect"):
        assert listed(run, command, "--target").keys() == {*Target.names()}


def test_a_missing_option_is_named_by_its_name(refuses: Callable[..., str]) -> None:
    assert "-o/--output" in refuses("package", "sam", "--model", "x")
