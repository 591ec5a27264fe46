"""Recipe: which scheme and calibrator each role gets. Data in TOML, plus overrides from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from onnxptq.bits import FLOAT, WIDTHS, Bits
from onnxptq.calibrators import calibrators, weight_calibrators
from onnxptq.calibrators.base import Joint
from onnxptq.errors import InputError, nearest
from onnxptq.files import read_text, reading, require
from onnxptq.ops import schemes
from onnxptq.options import Configurable
from onnxptq.passes import passes as known_passes
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Part, Role, Site, Structure

CHOICE_FIELDS = {f.name for f in fields(Choice)} - {"params", "options"}
HEADED = (Role.QUERY, Role.KEY, Role.VALUE)
ROUNDED = "rounded"
"""At the gate: the recipe itself, without its weights found together."""
FOUND = frozenset({"heads", "blocks", "norm", "errors"})
"""Options that are not set but found out."""
DEFAULT = "minmax"
"""The calibrator where no rule names one."""
GRANULARITIES = ("tensor", "channel", "head", "row", "column", "block")


@dataclass(frozen=True)
class Rule:
    """Fields of Choice for the sites it matches; later rules win."""

    changes: Mapping[str, Any]
    roles: frozenset[Role] = frozenset()
    parts: frozenset[Part] = frozenset()
    pattern: str = ""

    def overlaps(self, other: Rule) -> bool:
        """Whether some site may match both, as far as roles and parts say."""
        roles, parts = self.roles & other.roles, self.parts & other.parts
        return bool((roles or not self.roles or not other.roles) and (parts or not self.parts or not other.parts))

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
            with reading(f"recipe {recipe}"):
                loaded = cls._parse(read_text(Path(recipe)), str(recipe))
        else:
            raise InputError(f"unknown recipe {str(recipe)!r}{nearest(str(recipe), cls.names())}")
        for key, value in (settings or {}).items():
            loaded = loaded.set(key, value)
        loaded.check()
        return loaded

    @classmethod
    def _parse(cls, text: str, name: str) -> Recipe:
        with reading(f"recipe {name}", "not valid TOML"):
            data = tomllib.loads(text)
        switches = require(data.pop("settings", {}), dict, f"recipe {name}: settings")
        about = require(data.pop("description", ""), str, f"recipe {name}: description")
        for key, values in switches.items():
            require(values, dict, f"recipe {name}: settings.{key}")
        defaults = {key: values.pop("default") for key, values in switches.items() if "default" in values}
        recipe = cls(Path(name).stem, about, switches=switches).extend(data)
        for key, values in switches.items():
            for value, sections in values.items():
                recipe.extend(require(sections, dict, f"recipe {name}: settings.{key}.{value}"))
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
        passes = self._names(data, "passes", self.passes)
        options = {**self.pass_options}
        for name, given in self._table(data, "pass").items():
            options[name] = {**options.get(name, {}), **self._table({name: given}, name)}
        for name in (*passes, *options):
            if name not in known_passes():
                raise InputError(f"recipe {self.name}: unknown pass {name!r}{nearest(name, known_passes())}")
        for name, given in options.items():
            with self._named():
                known_passes()[name].settings(given)
        gate = self._names(data, "gate", self.gate)
        rules = [*self.rules]
        activations = frozenset(Role) - {Role.WEIGHT}
        if "weights" in data:
            rules.append(self._rule(self._table(data, "weights"), roles=frozenset({Role.WEIGHT})))
        if "activations" in data:
            rules.append(self._rule(self._table(data, "activations"), roles=activations))
        for role, changes in self._table(data, "roles").items():
            rules.append(self._rule(self._table({role: changes}, role), roles=frozenset({self._member(Role, role)})))
        for number, entry in enumerate(require(data.get("rules", []), list, f"recipe {self.name}: rules"), 1):
            entry = dict(self._table({f"rule {number}": entry}, f"rule {number}"))
            roles = frozenset(self._member(Role, r) for r in self._names(entry, "roles", ()))
            parts = frozenset(self._member(Part, p) for p in self._names(entry, "parts", ()))
            pattern = require(entry.get("pattern", ""), str, f"recipe {self.name}: pattern of rule {number}")
            with reading(f"recipe {self.name}: pattern {pattern!r}", "not a regular expression"):
                re.compile(pattern)
            fields_of = {key: value for key, value in entry.items() if key not in ("roles", "parts", "pattern")}
            rules.append(self._rule(fields_of, roles=roles, parts=parts, pattern=pattern))
        extended = replace(self, passes=passes, pass_options=options, gate=gate, rules=tuple(rules))
        for entry in gate if "gate" in data else ():
            extended.baseline(entry)
        return extended

    def _table(self, data: Mapping[str, Any], key: str) -> dict[str, Any]:
        found: dict[str, Any] = require(data.get(key, {}), dict, f"recipe {self.name}: {key}")
        return found

    def _names(self, data: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        found = require(list(default) if key not in data else data[key], list, f"recipe {self.name}: {key}")
        return tuple(require(name, str, f"recipe {self.name}: an entry of {key}") for name in found)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the recipe in errors."""
        try:
            yield
        except InputError as error:
            raise InputError(f"recipe {self.name}: {error}") from error

    def check(self) -> None:
        """An InputError for an option that no calibrator takes which the recipe can give to the same sites."""
        for rule in self.rules:
            given = rule.changes["options"]
            takers = self._takers(rule) if given else []
            known = {name for one in takers for name in one.options}
            for key in given:
                if key not in known:
                    names = " or ".join(dict.fromkeys(one.name for one in takers))
                    raise InputError(
                        f"recipe {self.name}: no option {key!r} of calibrator {names}"
                        f"{nearest(key, known | CHOICE_FIELDS)}"
                    )
            with self._named():
                for one in takers:
                    if given.keys() & one.options.keys():
                        one.settings(given)

    def _takers(self, rule: Rule) -> list[Configurable]:
        """The calibrators that sites of a rule may get from any rule, and their candidates."""
        near = [one for one in self.rules if one.overlaps(rule)]
        names = {one.changes["calibrator"] for one in near if "calibrator" in one.changes} or {DEFAULT}
        for one in near:
            candidates = one.changes["options"].get("candidates", ())
            names |= {name for name in candidates if isinstance(name, str)} if isinstance(candidates, list) else set()
        activations: Mapping[str, Configurable] = calibrators() if rule.roles != {Role.WEIGHT} else {}
        weights = _of_weights() if not rule.roles or Role.WEIGHT in rule.roles else {}
        return [known[name] for known in (activations, weights) for name in sorted(names) if name in known]

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
        for key, value in changes.items():
            names: dict[str, Iterable[str]] = {
                "scheme": schemes(),
                "calibrator": {**calibrators(), **weight_calibrators()},
                "granularity": GRANULARITIES,
            }
            known = names.get(key)
            if known is not None and (not isinstance(value, str) or value not in known):
                raise InputError(f"recipe {self.name}: unknown {key} {value!r}{nearest(str(value), known)}")
            if key == "bits" and (type(value) is not int or (value not in WIDTHS and value != FLOAT)):
                raise InputError(f"recipe {self.name}: bits = {value!r}: use 2 to 8, or 32 to leave the site in float")
            if key == "symmetric" and not isinstance(value, bool):
                raise InputError(f"recipe {self.name}: symmetric = {value!r}: write true or false")
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
        choices = _placed(choices, structure)
        folds = {name: dict(self.pass_options.get(name, {})) for name in self.passes}
        return Plan(choices, recipe=self.name, bits=str(bits), passes=folds), warnings

    def of(self, plan: Plan) -> Recipe:
        """The recipe that a plan stands for: its folds. Rules count where a format asks for other codes than the plan
        has."""
        if not plan.recipe:
            return self
        found = self
        if self.name != plan.recipe:
            found = self.load(plan.recipe) if plan.recipe in self.names() else Recipe(plan.recipe)
        given = {"passes": list(plan.passes), "pass": {name: dict(options) for name, options in plan.passes.items()}}
        return replace(found, passes=(), pass_options={}).extend(given)

    def choice(self, site: Site, bits: int) -> Choice:
        """What the rules say about one site."""
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


def _placed(choices: Mapping[Site, Choice], structure: Structure) -> dict[Site, Choice]:
    """Choices not yet made, with what calibrators have to know of the place: heads, and blocks of a weight."""
    heads = {consumer: one.heads for one in structure.attentions.values() for consumer in (one.qk, one.av)}
    blocks = structure.blocks()
    placed = {}
    for site, choice in choices.items():
        options = {key: value for key, value in choice.options.items() if key not in ("heads", "blocks")}
        if site.role in HEADED and choice.granularity in ("channel", "head"):
            options["heads"] = heads[site.consumer]
        if choice.granularity == "block" and site.consumer in blocks and choice.params is None:
            options["blocks"] = blocks[site.consumer]
        placed[site] = replace(choice, options=options)
    return placed


def applied(plan: Plan, structure: Structure) -> Plan:
    """A plan from a file, on the sites of a model; an InputError where it does not fit them."""
    sites = {site.key: site for site in structure.sites}
    every: list[Configurable] = [*calibrators().values(), *weight_calibrators().values()]
    known = {option for one in every for option in one.options} | FOUND
    choices: dict[Site, Choice] = {}
    for key, choice in plan.items():
        if key not in sites:
            raise InputError(f"plan: site {key!r} is not in this model{nearest(key, sites)}")
        if choice.granularity not in GRANULARITIES:
            raise InputError(
                f"plan: site {key}: unknown granularity {choice.granularity!r}"
                f"{nearest(choice.granularity, GRANULARITIES)}"
            )
        for option in choice.options:
            if option not in known:
                raise InputError(f"plan: site {key}: no option {option!r}{nearest(option, known)}")
        check_choice(sites[key], choice)
        choices[sites[key]] = choice
    placed = _placed(choices, structure)
    for site, choice in placed.items():
        _require_fit(site, choice)
    found = plan.about()
    return Plan(placed, recipe=found.recipe, bits=found.bits, passes=found.passes, model=found.model, notes=found.notes)


def _require_fit(site: Site, choice: Choice) -> None:
    """An InputError where parameters have another width or shape than the site."""
    if choice.params is None:
        return
    heads = int(choice.options.get("heads", 1))
    channels = site.channels or 1
    counts = {"tensor": {1}, "row": {1}, "column": {1}}.get(choice.granularity, {1, channels, heads, heads * channels})
    arrays = choice.params.inputs() if choice.scheme == "uniform" else {}
    if choice.params.bits != choice.bits or any(array.size not in counts for array in arrays.values()):
        raise InputError(
            f"plan: site {site.key}: its parameters are for {choice.params.bits} bits and "
            f"{max((a.size for a in arrays.values()), default=1)} channels; remove them, to be found anew"
        )


def _of_weights() -> dict[str, Configurable]:
    """The calibrators that weights may have."""
    joint: dict[str, Configurable] = {name: one for name, one in calibrators().items() if isinstance(one, Joint)}
    return {**weight_calibrators(), **joint}


def check_choice(site: Site, choice: Choice) -> None:
    """An InputError where a choice cannot be made for a site of its kind."""
    weight = site.role is Role.WEIGHT
    what, known = ("weights", _of_weights()) if weight else ("activations", dict[str, Configurable](calibrators()))
    if choice.calibrator not in known:
        raise InputError(
            f"site {site.key}: calibrator {choice.calibrator!r} is not for {what}; use one of "
            f"{', '.join(sorted(known))}"
        )
    known[choice.calibrator].settings(choice.options)
    if weight and choice.scheme != "uniform":
        raise InputError(f"site {site.key}: weights have scheme 'uniform', not {choice.scheme!r}")
    if weight and choice.granularity not in ("tensor", "channel", "block"):
        raise InputError(
            f"site {site.key}: weights have a scale per tensor, channel or block, not per {choice.granularity}"
        )


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
        held = tomllib.loads(f"v = {text}")
    except (ValueError, RecursionError):
        return text
    return held["v"] if held.keys() == {"v"} else text
