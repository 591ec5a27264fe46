"""Recipes as TOML: sections become rules; an invalid entry is an error that names it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.bits import FLOAT, WIDEST, WIDTHS
from onnxptq.calibrators import calibrators, weight_calibrators
from onnxptq.errors import InputError, nearest
from onnxptq.files import reading, require
from onnxptq.ops import schemes
from onnxptq.options import Configurable
from onnxptq.passes import passes as known_passes
from onnxptq.placement import GRANULARITIES, for_weights
from onnxptq.plan import Choice
from onnxptq.structure import Part, Role, Site

if TYPE_CHECKING:
    from onnxptq.recipe import Recipe

CHOICE_FIELDS = {f.name for f in fields(Choice)} - {"params", "options"}
DEFAULT = "minmax"
"""The calibrator if no rule names one."""


@dataclass(frozen=True)
class Rule:
    """Fields of Choice for matching sites; later rules win."""

    changes: Mapping[str, Any]
    roles: frozenset[Role] = frozenset()
    parts: frozenset[Part] = frozenset()
    pattern: str = ""

    def overlaps(self, roles: frozenset[Role], parts: frozenset[Part]) -> bool:
        """Whether the rule may apply to a site of these roles and parts; an empty set means any."""
        return bool(
            (self.roles & roles or not self.roles or not roles) and (self.parts & parts or not self.parts or not parts)
        )

    def matches(self, site: Site) -> bool:
        """Whether the rule applies to this site."""
        return (
            (not self.roles or site.role in self.roles)
            and (not self.parts or site.part in self.parts)
            and (not self.pattern or re.search(self.pattern, site.key) is not None)
        )


@dataclass(frozen=True)
class Guard:
    """Limits for the error that quantized inputs of convolutions may cause in the outputs, dB."""

    below: float = 6.0
    """Maximum loss against the model with these inputs relieved."""
    enough: float = 40.0
    """SQNR above which the guard does nothing at 8 bits; 6 dB less for each bit fewer."""

    def enough_at(self, bits: int) -> float:
        """``enough`` at another width."""
        return self.enough - 6.0 * (WIDEST - bits)


def parse(text: str, name: str, blank: Callable[..., Recipe]) -> Recipe:
    """The recipe in a TOML text; ``blank`` creates the recipe to which its sections are added."""
    with reading(f"recipe {name}", "not valid TOML"):
        data = tomllib.loads(text)
    switches = require(data.pop("settings", {}), dict, f"recipe {name}: settings")
    about = require(data.pop("description", ""), str, f"recipe {name}: description")
    for key, values in switches.items():
        require(values, dict, f"recipe {name}: settings.{key}")
    defaults = {key: values.pop("default") for key, values in switches.items() if "default" in values}
    recipe = blank(Path(name).stem, about, switches=switches).extend(data)
    for key, values in switches.items():
        for value, sections in values.items():
            recipe.extend(require(sections, dict, f"recipe {name}: settings.{key}.{value}"))
    for key, value in defaults.items():
        recipe = recipe.set(key, str(value))
    return recipe


ALIASES = {"gate": "selection"}
"""Former names of sections."""


def extend(recipe: Recipe, data: Mapping[str, Any]) -> Recipe:
    """Add sections of a recipe file to a recipe."""
    known = {"passes", "pass", "selection", "guard", "weights", "activations", "roles", "rules"}
    data = {ALIASES.get(key, key): value for key, value in data.items()}
    for key in data:
        if key not in known:
            raise InputError(f"recipe {recipe.name}: unknown section {key!r}{nearest(key, known)}")
    passes = _names(recipe, data, "passes", recipe.passes)
    options = {**recipe.pass_options}
    for name, given in _table(recipe, data, "pass").items():
        options[name] = {**options.get(name, {}), **_table(recipe, {name: given}, name)}
    for name in (*passes, *options):
        if name not in known_passes():
            raise InputError(f"recipe {recipe.name}: unknown pass {name!r}{nearest(name, known_passes())}")
    for name, given in options.items():
        with _named(recipe):
            known_passes()[name].settings(given)
    selection = _names(recipe, data, "selection", recipe.selection)
    rules = [*recipe.rules]
    activations = frozenset(Role) - {Role.WEIGHT}
    if "weights" in data:
        rules.append(_rule(recipe, _table(recipe, data, "weights"), roles=frozenset({Role.WEIGHT})))
    if "activations" in data:
        rules.append(_rule(recipe, _table(recipe, data, "activations"), roles=activations))
    for role, changes in _table(recipe, data, "roles").items():
        rules.append(
            _rule(recipe, _table(recipe, {role: changes}, role), roles=frozenset({_member(recipe, Role, role)}))
        )
    for number, entry in enumerate(require(data.get("rules", []), list, f"recipe {recipe.name}: rules"), 1):
        entry = dict(_table(recipe, {f"rule {number}": entry}, f"rule {number}"))
        roles = frozenset(_member(recipe, Role, r) for r in _names(recipe, entry, "roles", ()))
        parts = frozenset(_member(recipe, Part, p) for p in _names(recipe, entry, "parts", ()))
        pattern = require(entry.get("pattern", ""), str, f"recipe {recipe.name}: pattern of rule {number}")
        with reading(f"recipe {recipe.name}: pattern {pattern!r}", "not a regular expression"):
            re.compile(pattern)
        fields_of = {key: value for key, value in entry.items() if key not in ("roles", "parts", "pattern")}
        rules.append(_rule(recipe, fields_of, roles=roles, parts=parts, pattern=pattern))
    guard = _guarded(recipe, _table(recipe, data, "guard")) if "guard" in data else recipe.guard
    extended = replace(
        recipe, passes=passes, pass_options=options, selection=selection, guard=guard, rules=tuple(rules)
    )
    for entry in selection if "selection" in data else ():
        extended.baseline(entry)
    return extended


def _table(recipe: Recipe, data: Mapping[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = require(data.get(key, {}), dict, f"recipe {recipe.name}: {key}")
    return found


def _names(recipe: Recipe, data: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    found = require(list(default) if key not in data else data[key], list, f"recipe {recipe.name}: {key}")
    return tuple(require(name, str, f"recipe {recipe.name}: an entry of {key}") for name in found)


@contextmanager
def _named(recipe: Recipe) -> Iterator[None]:
    """Name the recipe in errors."""
    try:
        yield
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error


def check_options(recipe: Recipe) -> None:
    """An InputError for an option that no calibrator takes that the recipe can give to the same sites."""
    for rule in recipe.rules:
        given = rule.changes["options"]
        found = takers(recipe, rule.roles, rule.parts) if given else []
        known = {name for one in found for name in one.options}
        for key in given:
            if key not in known:
                names = " or ".join(dict.fromkeys(one.name for one in found))
                raise InputError(
                    f"recipe {recipe.name}: no option {key!r} of calibrator {names}"
                    f"{nearest(key, known | CHOICE_FIELDS)}"
                )
        with _named(recipe):
            for one in found:
                if given.keys() & one.options.keys():
                    one.settings(given)


def takers(recipe: Recipe, roles: frozenset[Role], parts: frozenset[Part] = frozenset()) -> list[Configurable]:
    """Calibrators that any rule may give to sites of these roles and parts, and their candidates."""
    near = [one for one in recipe.rules if one.overlaps(roles, parts)]
    names = {one.changes["calibrator"] for one in near if "calibrator" in one.changes} or {DEFAULT}
    for one in near:
        candidates = one.changes["options"].get("candidates", ())
        names |= {name for name in candidates if isinstance(name, str)} if isinstance(candidates, list) else set()
    activations: Mapping[str, Configurable] = calibrators() if roles != {Role.WEIGHT} else {}
    weights = for_weights() if not roles or Role.WEIGHT in roles else {}
    return [known[name] for known in (activations, weights) for name in sorted(names) if name in known]


def _guarded(recipe: Recipe, given: Mapping[str, Any]) -> Guard | None:
    """The limits with the ``given`` ones changed; ``on = false`` disables the guard."""
    limits = {f.name: f.default for f in fields(Guard)} | (vars(recipe.guard) if recipe.guard else {})
    for key, limit in given.items():
        if key not in (*limits, "on"):
            raise InputError(f"recipe {recipe.name}: guard has no option {key!r}{nearest(key, (*limits, 'on'))}")
        if isinstance(limit, bool) != (key == "on") or not isinstance(limit, (int, float)):
            kind = "true or false" if key == "on" else "a number of dB"
            raise InputError(f"recipe {recipe.name}: guard, option {key!r}: expected {kind}, got {limit!r}")
    if not given.get("on", True):
        return None
    return Guard(**{k: float(v) for k, v in {**limits, **given}.items() if k != "on"})


def _member(recipe: Recipe, kind: type[Role] | type[Part], name: str) -> Any:
    try:
        return kind(name)
    except ValueError:
        raise InputError(
            f"recipe {recipe.name}: unknown {kind.__name__.lower()} {name!r}{nearest(name, [m.value for m in kind])}"
        ) from None


def _rule(recipe: Recipe, changes: Mapping[str, Any], **match: Any) -> Rule:
    for key, value in changes.items():
        names: dict[str, Iterable[str]] = {
            "scheme": schemes(),
            "calibrator": {**calibrators(), **weight_calibrators()},
            "granularity": GRANULARITIES,
        }
        known = names.get(key)
        if known is not None and (not isinstance(value, str) or value not in known):
            raise InputError(f"recipe {recipe.name}: unknown {key} {value!r}{nearest(str(value), known)}")
        if key == "bits" and (type(value) is not int or (value not in WIDTHS and value != FLOAT)):
            raise InputError(f"recipe {recipe.name}: bits = {value!r}: use 2 to 8, or 32 to leave the site in float")
        if key == "symmetric" and not isinstance(value, bool):
            raise InputError(f"recipe {recipe.name}: symmetric = {value!r}: write true or false")
    plain = {k: v for k, v in changes.items() if k in CHOICE_FIELDS}
    plain["options"] = {k: v for k, v in changes.items() if k not in CHOICE_FIELDS}
    return Rule(plain, **match)
