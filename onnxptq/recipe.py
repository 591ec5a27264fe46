"""Recipe: the scheme and calibrator of each role. Data in TOML, plus overrides from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from onnxptq.bits import FLOAT, Bits
from onnxptq.errors import InputError, nearest
from onnxptq.files import read_text, reading
from onnxptq.placement import check_choice, placed_on
from onnxptq.plan import Choice, Plan
from onnxptq.recipe_text import ALIASES, DEFAULT, Guard, Rule, check_options, extend, parse
from onnxptq.structure import Role, Site, Structure

SECTIONS = ("passes", "selection", "guard", "pass", "weights", "activations")
ROUNDED = "rounded"
"""Selection entry: the recipe itself with weights solved independently."""


@dataclass(frozen=True)
class Recipe:
    """A named composition of passes and rules."""

    name: str
    description: str = ""
    passes: tuple[str, ...] = ()
    pass_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    selection: tuple[str, ...] = ()
    """Baselines, which the selection keeps where they score better: ``rounded``, and names that ``baseline`` reads."""
    guard: Guard | None = None
    """Limits for the error of quantized convolutions; None: no guard."""
    switches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of this recipe: setting -> value -> the recipe sections it adds."""

    @classmethod
    def names(cls) -> list[str]:
        """The shipped recipes."""
        return sorted(
            p.name.removesuffix(".toml")
            for p in resources.files("onnxptq").joinpath("recipes").iterdir()
            if p.name.endswith(".toml")
        )

    @classmethod
    def load(cls, recipe: str | Path | Recipe, settings: Mapping[str, str] | None = None) -> Recipe:
        """A shipped recipe by name, or one from a TOML file; ``settings`` are ``--set`` overrides."""
        if isinstance(recipe, Recipe):
            loaded = recipe
        elif str(recipe) in cls.names():
            text = resources.files("onnxptq").joinpath("recipes", f"{recipe}.toml").read_text()
            loaded = parse(text, str(recipe), cls)
        elif str(recipe).endswith(".toml"):
            with reading(f"recipe {recipe}"):
                loaded = parse(read_text(Path(recipe)), str(recipe), cls)
        else:
            raise InputError(f"unknown recipe {str(recipe)!r}{nearest(str(recipe), cls.names())}")
        for key, value in (settings or {}).items():
            loaded = loaded.set(key, value)
        check_options(loaded)
        return loaded

    def extend(self, data: Mapping[str, Any]) -> Recipe:
        """This recipe with more sections; see ``recipe_text.extend``."""
        return extend(self, data)

    def baseline(self, entry: str) -> Recipe:
        """The recipe of a selection entry.

        A recipe, or this one with other settings (``NAME+KEY=VALUE+..``, ``+KEY=VALUE``).
        """
        name, settings = named(entry)
        if not name:
            return Recipe.load(replace(self, selection=()), settings)
        if name not in (ROUNDED, *self.names()):
            raise InputError(
                f"recipe {self.name}: selection: no recipe {name!r}{nearest(name, (ROUNDED, *self.names()))}"
            )
        return self if entry == ROUNDED else Recipe.load(name, settings)

    def set(self, key: str, value: str) -> Recipe:
        """Apply ``--set key=value``.

        A key is a switch, ``passes``, ``selection``, ``guard.LIMIT``, ``pass.NAME.OPTION`` or
        ``weights|activations|ROLE . FIELD``.
        """
        key = ALIASES.get(key, key)
        if key in self.switches:
            if value not in self.switches[key]:
                raise InputError(
                    f"--set {key}={value}: recipe {self.name} knows {', '.join(sorted(self.switches[key]))}"
                )
            return self.extend(self.switches[key][value])
        if key in ("passes", "selection"):
            return self.extend({key: [name for name in value.split(",") if name not in ("", "off")]})
        match key.split("."):
            case ["guard", name]:
                return self.extend({"guard": {name: plain_value(value)}})
            case ["pass", name, option]:
                return self.extend({"pass": {name: {option: plain_value(value)}}})
            case [("weights" | "activations") as section, name]:
                return self.extend({section: {name: plain_value(value)}})
            case [role, name] if role in set(Role):
                return self.extend({"roles": {role: {name: plain_value(value)}}})
        sections = {*self.switches, *SECTIONS, *(one.value for one in Role)}
        raise InputError(
            f"--set {key}: no such setting of recipe {self.name}{nearest(key.split('.')[0], sections)}; "
            "--set without a value lists them"
        )

    def suited(self, format: str) -> dict[str, str]:
        """The settings for a format: schemes that it can express, so that weights correct the errors of these."""
        return {"codes": "standard"} if format == "qdq" and "codes" in self.switches else {}

    def plan(
        self, structure: Structure, bits: Bits, *, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> tuple[Plan, list[str]]:
        """A choice for every site in scope, and warnings about patterns without a match."""
        hits = dict.fromkeys((*exclude, *include), 0)

        def any_match(patterns: Sequence[str], site: Site) -> bool:
            found = [p for p in patterns if re.search(p, site.key) or re.search(p, site.tensor)]
            for p in found:
                hits[p] += 1
            return bool(found)

        choices: dict[Site, Choice] = {}
        for site in structure.sites:
            excluded, included = any_match(exclude, site), any_match(include, site)
            width = bits.weights if site.role is Role.WEIGHT else bits.activations
            if width == FLOAT or excluded or not (site.default or included):
                continue
            choice = self.choice(site, width)
            if choice.bits == FLOAT:
                continue
            check_choice(site, choice)
            choices[site] = choice
        warnings = [
            f"pattern {p!r} matches no site; `onnxptq inspect` lists them" for p, count in hits.items() if not count
        ]
        choices = placed_on(choices, structure)
        folds = {name: dict(self.pass_options.get(name, {})) for name in self.passes}
        return Plan(choices, recipe=self.name, bits=str(bits), passes=folds), warnings

    def of(self, plan: Plan) -> Recipe:
        """The recipe of a plan, with its folds. Its rules matter if a format needs other schemes than the plan's."""
        if not plan.recipe:
            return self
        found = self
        if self.name != plan.recipe:
            found = self.load(plan.recipe) if plan.recipe in self.names() else Recipe(plan.recipe)
        given = {"passes": list(plan.passes), "pass": {name: dict(options) for name, options in plan.passes.items()}}
        return replace(found, passes=(), pass_options={}).extend(given)

    def choice(self, site: Site, bits: int) -> Choice:
        """The choice of the rules for one site."""
        choice = Choice(
            scheme="uniform",
            calibrator=DEFAULT,
            bits=bits,
            granularity="channel" if site.role is Role.WEIGHT else "tensor",
        )
        for rule in self.rules:
            if rule.matches(site):
                changes = dict(rule.changes)
                options = {**choice.options, **changes.pop("options", {})}
                choice = replace(choice, **changes, options=options)
        return choice


def named(text: str) -> tuple[str, dict[str, str]]:
    """The name of a recipe and the settings after it: ``NAME+KEY=VALUE+..``."""
    name, *settings = text.split("+")
    for one in settings:
        if "=" not in one:
            raise InputError(f"recipe {text}: write NAME+KEY=VALUE")
    return name, dict(one.split("=", 1) for one in settings)


def plain_value(text: str) -> Any:
    """The TOML value of a text, or the text itself if it is none."""
    try:
        held = tomllib.loads(f"v = {text}")
    except (ValueError, RecursionError):
        return text
    return held["v"] if held.keys() == {"v"} else text
