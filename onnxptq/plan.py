"""Plan: the scheme, width and parameters of each site, as data that can be printed, saved, edited and re-applied."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnxptq.display import table
from onnxptq.errors import InputError, nearest
from onnxptq.files import parse_json, read_text, reading, require, whole
from onnxptq.ops import schemes
from onnxptq.ops.scheme import Params
from onnxptq.plan_arrays import packed, unpacked
from onnxptq.structure import Part, Role, Site

FORMAT = 2
FACTS = ("recipe", "bits", "model", "target", "written")
"""What a plan says about its own making, as texts."""
FLOAT = "float"
"""The pseudo-scheme of a site that stays in float."""


@dataclass(frozen=True)
class Choice:
    """How one site is quantized. ``params`` is None before calibration, and always for dynamic schemes."""

    scheme: str
    calibrator: str
    bits: int
    granularity: str = "tensor"
    """``tensor``, ``channel`` (the site's axis), ``head`` (attention operands), ``row`` (dynamic schemes), ``column``
    (the same, of an attention's values), ``pixel`` and ``sample`` (the same, of a convolution's input) or ``block`` (of
    a weight: what makes q, k and v each on its own)."""
    symmetric: bool = False
    params: Params | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the calibrator or scheme, by name."""


class Plan(Mapping[str, Choice]):
    """Choices by site key, in graph order, with the sites and the request they were made for."""

    def __init__(
        self,
        choices: Mapping[Site, Choice],
        *,
        recipe: str = "",
        bits: str = "",
        passes: Mapping[str, Mapping[str, Any]] | None = None,
        model: str = "",
        target: str = "",
        written: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.sites = {site.key: site for site in choices}
        self._choices = {site.key: choice for site, choice in choices.items()}
        self.recipe, self.bits, self.model, self.notes = recipe, bits, model, notes
        """``model`` is the digest of the model before its folds; ``notes`` name the ignored parts of a file."""
        self.target, self.written = target, written
        """The runtime that the plan was made for, if one was named, and the format that it was written in."""
        self.passes = dict(passes or {})
        """The folds, with options, under which the parameters were found."""

    def __getitem__(self, key: str) -> Choice:
        return self._choices[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"<Plan: {self.summary()}>"

    def summary(self) -> str:
        """One line: recipe, bits, number of sites, and what else is known."""
        roles = Counter(site.role.value.replace("_", " ") for site in self.sites.values())
        open_ = sum(choice.params is None for choice in self.values())
        parts = [
            f"{self.bits or 'any bits'} by recipe {self.recipe or '(none)'}",
            f"{len(self)} sites ({', '.join(f'{n} {role}' for role, n in roles.items())})",
            *([f"target {self.target}"] if self.target else []),
            *([f"{open_} without parameters"] if open_ else []),
        ]
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        kinds = Counter(
            (self.sites[key].role.value, one.scheme, one.calibrator, one.bits, one.granularity)
            for key, one in self.items()
        )
        header = ("sites", "role", "scheme", "calibrator", "bits", "granularity")
        return table(header, [(count, *kind) for kind, count in kinds.items()], self.summary())

    def about(self, **facts: Any) -> Plan:
        """The same choices with other facts: ``recipe``, ``bits``, ``passes``, ``model``, ``target``, ``notes`` ..."""
        return Plan({self.sites[key]: choice for key, choice in self._choices.items()}, **self.facts | facts)

    @property
    def facts(self) -> dict[str, Any]:
        """All that the plan knows beside its choices."""
        return {name: getattr(self, name) for name in ("passes", "notes", *FACTS)}

    def without(self, keys: Collection[str]) -> Plan:
        """A plan with these sites in float."""
        plan = self.about()
        plan.sites = {key: site for key, site in self.sites.items() if key not in keys}
        plan._choices = {key: choice for key, choice in self._choices.items() if key not in keys}
        return plan

    def replace(self, changes: Mapping[str, Choice]) -> Plan:
        """A plan with some choices replaced."""
        plan = self.about()
        plan._choices = {key: changes.get(key, choice) for key, choice in self._choices.items()}
        return plan

    def with_widths(self, widths: Mapping[str, int]) -> Plan:
        """A plan with these widths, where it has the sites."""
        return self.replace({key: replace(self[key], bits=width) for key, width in widths.items() if key in self})

    def override(self, pattern: str, **changes: Any) -> Plan:
        """A plan with the given fields changed in every site whose key matches the regular expression.

        The parameters of these sites are found anew.
        """
        matching = {
            key: replace(choice, **{"params": None, **changes})
            for key, choice in self._choices.items()
            if re.search(pattern, key)
        }
        if not matching:
            raise InputError(f"plan override {pattern!r} matches no site: `onnxptq inspect` lists them")
        return self.replace(matching)

    def to_json(self) -> str:
        """JSON text, one line per site; ``from_json`` restores the same plan, bit for bit."""
        facts = {key: getattr(self, key) for key in FACTS} | {"passes": self.passes}
        lines = []
        for key, choice in self._choices.items():
            entry = _site_json(self.sites[key]) | _choice_json(choice)
            if choice.params is not None:
                entry |= {
                    "found": _mark(facts, entry),
                    "params": {f.name: packed(getattr(choice.params, f.name)) for f in fields(choice.params)},
                }
            lines.append("  " + json.dumps(entry, allow_nan=False))
        head = json.dumps({"format": FORMAT} | facts, indent=1, allow_nan=False).removesuffix("\n}")
        return head + ',\n "sites": [\n' + ",\n".join(lines) + "\n ]\n}"

    @classmethod
    def from_json(cls, text: str, *, name: str = "plan") -> Plan:
        """The plan of ``to_json``; for other text an InputError that names the place.

        Parameters of sites that were edited since are dropped, so that they are found anew; ``notes`` name them.
        """
        with reading(name, "not a plan written by onnxptq"):
            data = require(parse_json(text), dict, f"{name}: not a plan written by onnxptq")
            if data["format"] != FORMAT:
                raise InputError(f"{name}: plan format {data['format']!r}, this version reads {FORMAT}")
            facts = {key: require(data.get(key, ""), str, f"{name}: {key}") for key in FACTS}
            facts["passes"] = require(data["passes"], dict, f"{name}: passes")
            for key, options in facts["passes"].items():
                require(options, dict, f"{name}: options of pass {key}")
            choices: dict[Site, Choice] = {}
            notes: list[str] = []
            seen: set[str] = set()
            for number, given in enumerate(require(data["sites"], list, f"{name}: sites"), 1):
                entry = dict(require(given, dict, f"{name}: site {number}"))
                held, mark = entry.pop("params", None), entry.pop("found", None)
                if entry["scheme"] == FLOAT:
                    continue
                site, choice = _site(entry, f"{name}: site {number}"), _choice(entry, f"{name}: site {number}")
                if site.key in seen:
                    raise InputError(f"{name}: site {site.key} is there twice")
                seen.add(site.key)
                if held is not None and mark != _mark(facts, entry):
                    notes.append(f"{name}: site {site.key} was edited; its parameters are found anew")
                elif held is not None:
                    params = schemes()[choice.scheme].from_json(unpacked(require(held, dict, f"{name}: {site.key}")))
                    choice = replace(choice, params=params)
                choices[site] = choice
            return cls(choices, notes=tuple(notes), **facts)

    def save(self, path: str | Path) -> Path:
        """Write the plan, whole or not at all; the command line's ``--plan-out`` does the same."""
        from onnxptq.graph.save import write_atomic

        write_atomic(str(path), self.to_json() + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """The plan in a file that ``save`` or ``--plan-out`` wrote."""
        with reading(path, "cannot read the plan"):
            text = read_text(Path(path))
        return cls.from_json(text, name=str(path))


def _site_json(site: Site) -> dict[str, Any]:
    """The fields that identify a site, and those that are not the default."""
    return {f.name: getattr(site, f.name) for f in fields(site) if getattr(site, f.name) != f.default}


def _site(entry: Mapping[str, Any], where: str) -> Site:
    texts = {key: require(entry[key], str, f"{where}: {key}") for key in ("tensor", "consumer", "role")}
    texts |= {key: require(entry.get(key, ""), str, f"{where}: {key}") for key in ("partner", "output")}
    channels = entry.get("channels")
    return Site(
        **{**texts, "role": Role(texts["role"])},
        part=Part(entry.get("part", Part.VISUAL)),
        channels=None if channels is None else whole(channels, least=1),
        axis=whole(entry.get("axis", -1), least=-8, most=8),
        default=bool(entry.get("default", True)),
    )


def _choice_json(choice: Choice) -> dict[str, Any]:
    held = {f.name: getattr(choice, f.name) for f in fields(choice) if f.name not in ("params", "options")}
    return held | ({"options": dict(choice.options)} if choice.options else {})


def _choice(entry: Mapping[str, Any], where: str) -> Choice:
    known = {f.name for f in fields(Choice)} | {f.name for f in fields(Site)}
    for key in entry:
        if key not in known:
            raise InputError(f"{where}: no field {key!r}{nearest(key, known)}")
    texts = {key: require(entry[key], str, f"{where}: {key}") for key in ("scheme", "calibrator", "granularity")}
    if texts["scheme"] not in schemes():
        raise InputError(f"{where}: unknown scheme {texts['scheme']!r}{nearest(texts['scheme'], [*schemes(), FLOAT])}")
    return Choice(
        **texts,
        bits=whole(entry["bits"], least=2, most=8),
        symmetric=require(entry["symmetric"], bool, f"{where}: symmetric"),
        options=require(entry.get("options", {}), dict, f"{where}: options"),
    )


def _mark(facts: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """A mark of everything parameters depend on: if it differs, they are stale."""
    held = json.dumps([facts["model"], facts["passes"], entry], sort_keys=True, default=str)
    return hashlib.sha256(held.encode()).hexdigest()[:16]
