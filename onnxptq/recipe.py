"""Recipe: which scheme and calibrator each role gets. Data in TOML, plus overrides from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from onnxptq.bits import FLOAT, WIDTHS, Bits
from onnxptq.calibrators import calibrators, weight_calibrators
from onnxptq.calibrators.base import Joint
from onnxptq.errors import InputError, nearest
from onnxptq.ops import schemes
from onnxptq.passes import passes as known_passes
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Part, Role, Site, Structure

CHOICE_FIELDS = {f.name for f in fields(Choice)} - {"params", "options"}
HEADED = (Role.QUERY, Role.KEY, Role.VALUE)
ROUNDED = "rounded"
"""At the gate: the recipe itself, without its weights found together."""
GRANULARITIES = ("tensor", "channel", "head", "row", "column", "block")


@dataclass(frozen=True)
class Rule:
    """Fields of Choice for the sites it matches; later rules win."""

    changes: Mapping[str, Any]
    roles: frozenset[Role] = frozenset()
    parts: frozenset[Part] = frozenset()
    pattern: str = ""

    def matches(self, site: Site) -> bool:
        """Whether the rule speaks of this site."""
        return (
            (not self.roles or site.role in self.roles)
            and (not self.parts or site.part in self.parts)
            and (not self.pattern or re.search(self.pattern, site.key) is not None)
        )


@dataclass(frozen=True)
class Recipe:
    """A named composition of passes and rules."""

    name: str
    description: str = ""
    passes: tuple[str, ...] = ()
    pass_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    gate: tuple[str, ...] = ()
    """What the recipe is measured against, and gives way to where that is better: ``rounded``, and what ``baseline``
    reads."""
    switches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named settings of this recipe: setting -> value -> the recipe sections it adds."""

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
            loaded = cls._parse(text, str(recipe))
        elif str(recipe).endswith(".toml"):
            try:
                loaded = cls._parse(Path(recipe).read_text(), str(recipe))
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"recipe {recipe}: cannot read it: {getattr(error, 'strerror', None) or error}"
                ) from error
        else:
            raise InputError(f"unknown recipe {str(recipe)!r}{nearest(str(recipe), cls.names())}")
        for key, value in (settings or {}).items():
            loaded = loaded.set(key, value)
        return loaded

    @classmethod
    def _parse(cls, text: str, name: str) -> Recipe:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"recipe {name}: not valid TOML: {error}") from error
        switches = data.pop("settings", {})
        defaults = {key: values.pop("default") for key, values in switches.items() if "default" in values}
        recipe = cls(Path(name).stem, data.pop("description", ""), switches=switches).extend(data)
        for key, value in defaults.items():
            recipe = recipe.set(key, str(value))
        return recipe

    def extend(self, data: Mapping[str, Any]) -> Recipe:
        """This recipe with the sections ``passes``, ``pass``, ``gate``, ``weights``, ``activations``, ``roles`` and
        ``rules`` added."""
        known = {"passes", "pass", "gate", "weights", "activations", "roles", "rules"}
        for key in data:
            if key not in known:
                raise InputError(f"recipe {self.name}: unknown section {key!r}{nearest(key, known)}")
        passes = tuple(data.get("passes", self.passes))
        options = {**self.pass_options}
        for name, given in data.get("pass", {}).items():
            options[name] = {**options.get(name, {}), **given}
        for name in (*passes, *options):
            if name not in known_passes():
                raise InputError(f"recipe {self.name}: unknown pass {name!r}{nearest(name, known_passes())}")
        for name, given in options.items():
            for key in given:
                if key not in known_passes()[name].options:
                    raise InputError(
                        f"recipe {self.name}: pass {name} has no option "
                        f"{key!r}{nearest(key, known_passes()[name].options)}"
                    )
        gate = tuple(data.get("gate", self.gate))
        rules = [*self.rules]
        activations = frozenset(Role) - {Role.WEIGHT}
        if "weights" in data:
            rules.append(self._rule(data["weights"], roles=frozenset({Role.WEIGHT})))
        if "activations" in data:
            rules.append(self._rule(data["activations"], roles=activations))
        for role, changes in data.get("roles", {}).items():
            rules.append(self._rule(changes, roles=frozenset({self._member(Role, role)})))
        for entry in data.get("rules", ()):
            entry = dict(entry)
            roles = frozenset(self._member(Role, r) for r in entry.pop("roles", ()))
            parts = frozenset(self._member(Part, p) for p in entry.pop("parts", ()))
            rules.append(self._rule(entry, roles=roles, parts=parts, pattern=entry.pop("pattern", "")))
        extended = replace(self, passes=passes, pass_options=options, gate=gate, rules=tuple(rules))
        for entry in gate if "gate" in data else ():
            extended.baseline(entry)
        return extended

    def baseline(self, entry: str) -> Recipe:
        """What an entry of the gate stands for: a recipe, or this one with other settings (``NAME+KEY=VALUE+..``,
        ``+KEY=VALUE``)."""
        name, settings = named(entry)
        if not name:
            return Recipe.load(replace(self, gate=()), settings)
        if name not in (ROUNDED, *self.names()):
            raise InputError(f"recipe {self.name}: gate: no recipe {name!r}{nearest(name, (ROUNDED, *self.names()))}")
        return self if entry == ROUNDED else Recipe.load(name, settings)

    def _member(self, kind: type[Role] | type[Part], name: str) -> Any:
        try:
            return kind(name)
        except ValueError:
            raise InputError(
                f"recipe {self.name}: unknown {kind.__name__.lower()} {name!r}{nearest(name, [m.value for m in kind])}"
            ) from None

    def _rule(self, changes: Mapping[str, Any], **match: Any) -> Rule:
        changes = {k: v for k, v in changes.items() if k != "pattern"}
        for key, value in changes.items():
            names: dict[str, Iterable[str]] = {
                "scheme": schemes(),
                "calibrator": {**calibrators(), **weight_calibrators()},
                "granularity": GRANULARITIES,
            }
            known = names.get(key)
            if known is not None and value not in known:
                raise InputError(f"recipe {self.name}: unknown {key} {value!r}{nearest(str(value), known)}")
            if key == "bits" and value not in WIDTHS and value != FLOAT:
                raise InputError(f"recipe {self.name}: bits = {value!r}: use 2 to 8, or 32 to leave the site in float")
        plain = {k: v for k, v in changes.items() if k in CHOICE_FIELDS}
        plain["options"] = {k: v for k, v in changes.items() if k not in CHOICE_FIELDS}
        return Rule(plain, **match)

    def set(self, key: str, value: str) -> Recipe:
        """``--set key=value``: a switch, ``passes``, ``gate``, ``pass.NAME.OPTION``, or ``weights|activations|ROLE .
        FIELD``."""
        if key in self.switches:
            if value not in self.switches[key]:
                raise InputError(
                    f"--set {key}={value}: recipe {self.name} knows {', '.join(sorted(self.switches[key]))}"
                )
            return self.extend(self.switches[key][value])
        if key in ("passes", "gate"):
            return self.extend({key: [name for name in value.split(",") if name not in ("", "off")]})
        match key.split("."):
            case ["pass", name, option]:
                return self.extend({"pass": {name: {option: plain_value(value)}}})
            case [("weights" | "activations") as section, name]:
                return self.extend({section: {name: plain_value(value)}})
            case [role, name] if role in set(Role):
                return self.extend({"roles": {role: {name: plain_value(value)}}})
        sections = [*self.switches, "passes", "gate", "pass", "weights", "activations", *(role.value for role in Role)]
        raise InputError(
            f"--set {key}: no such setting{nearest(key.split('.')[0], sections)}; write SECTION.FIELD=VALUE"
        )

    def suited(self, format: str) -> dict[str, str]:
        """Settings that a format asks for: the codes it can say, so that weights make up for the errors of just
        these."""
        return {"codes": "standard"} if format == "qdq" and "codes" in self.switches else {}

    def plan(
        self, structure: Structure, bits: Bits, *, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> tuple[Plan, list[str]]:
        """A choice for every site in scope, and warnings about patterns that matched nothing."""
        hits = dict.fromkeys((*exclude, *include), 0)

        def any_match(patterns: Sequence[str], site: Site) -> bool:
            found = [p for p in patterns if re.search(p, site.key) or re.search(p, site.tensor)]
            for p in found:
                hits[p] += 1
            return bool(found)

        heads = {consumer: one.heads for one in structure.attentions.values() for consumer in (one.qk, one.av)}
        blocks = structure.blocks()
        choices: dict[Site, Choice] = {}
        for site in structure.sites:
            excluded, included = any_match(exclude, site), any_match(include, site)
            width = bits.weights if site.role is Role.WEIGHT else bits.activations
            if width == FLOAT or excluded or not (site.default or included):
                continue
            choice = self.choice(site, width)
            if choice.bits == FLOAT:
                continue
            self._check_calibrator(site, choice)
            if site.role in HEADED and choice.granularity in ("channel", "head"):
                choice = replace(choice, options={**choice.options, "heads": heads[site.consumer]})
            if choice.granularity == "block" and site.consumer in blocks:
                choice = replace(choice, options={**choice.options, "blocks": blocks[site.consumer]})
            choices[site] = choice
        warnings = [
            f"pattern {p!r} matches no site; `onnxptq inspect` lists them" for p, count in hits.items() if not count
        ]
        return Plan(choices, recipe=self.name, bits=str(bits)), warnings

    def _check_calibrator(self, site: Site, choice: Choice) -> None:
        """Fail where a calibrator of activations was given to a weight, or the other way round."""
        if site.role is Role.WEIGHT:
            joint = {name for name, one in calibrators().items() if isinstance(one, Joint)}
            what, known = "weights", joint | set(weight_calibrators())
        else:
            what, known = "activations", set(calibrators())
        if choice.calibrator not in known:
            raise InputError(
                f"recipe {self.name}: site {site.key}: calibrator {choice.calibrator!r} is not for {what}; "
                f"use one of {', '.join(sorted(known))}"
            )

    def choice(self, site: Site, bits: int) -> Choice:
        """What the rules say about one site."""
        choice = Choice(
            scheme="uniform",
            calibrator="minmax",
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
    """The name of a recipe and the settings written behind it: ``NAME+KEY=VALUE+..``."""
    name, *settings = text.split("+")
    for one in settings:
        if "=" not in one:
            raise InputError(f"recipe {text}: write NAME+KEY=VALUE")
    return name, dict(one.split("=", 1) for one in settings)


def plain_value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
