"""Plan: which scheme, width and parameters each site gets. Data: it can be printed, saved, edited and re-applied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.scheme import Params
from onnxptq.structure import Part, Role, Site

FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """How one site is quantized. ``params`` is None until calibration has run (or for ever, where the scheme is
    dynamic)."""

    scheme: str
    calibrator: str
    bits: int
    granularity: str = "tensor"
    """``tensor``, ``channel`` (the site's axis), ``head`` (attention operands), ``row`` (dynamic schemes), ``column``
    (the same, of an attention's values) or ``block`` (of a weight: what makes q, k and v each on its own)."""
    symmetric: bool = False
    params: Params | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the calibrator or scheme, by name."""


class Plan(Mapping[str, Choice]):
    """Choices by site key, in graph order, with the sites themselves."""

    def __init__(self, choices: Mapping[Site, Choice], *, recipe: str = "", bits: str = "") -> None:
        self.sites = {site.key: site for site in choices}
        self._choices = {site.key: choice for site, choice in choices.items()}
        self.recipe = recipe
        self.bits = bits

    def __getitem__(self, key: str) -> Choice:
        return self._choices[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def replace(self, changes: Mapping[str, Choice]) -> Plan:
        """A plan with some choices replaced."""
        return Plan(
            {self.sites[key]: changes.get(key, choice) for key, choice in self._choices.items()},
            recipe=self.recipe,
            bits=self.bits,
        )

    def override(self, pattern: str, **changes: Any) -> Plan:
        """A plan in which every site whose key matches the regular expression has the given fields changed."""
        matching = {key: replace(choice, **changes) for key, choice in self._choices.items() if re.search(pattern, key)}
        if not matching:
            raise InputError(f"plan override {pattern!r} matches no site: `onnxptq inspect` lists them")
        return self.replace(matching)

    def to_json(self) -> str:
        """JSON text; ``from_json`` gives the same plan back, bit for bit."""
        entries = []
        for key, choice in self._choices.items():
            plain = {k: v for k, v in choice.__dict__.items() if k != "params"} | {"options": dict(choice.options)}
            plain["params"] = choice.params.to_json() if choice.params is not None else None
            entries.append({"site": asdict(self.sites[key]), "choice": plain})
        return json.dumps({"format": FORMAT, "recipe": self.recipe, "bits": self.bits, "sites": entries}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, name: str = "plan") -> Plan:
        """The plan of ``to_json``; anything else is an InputError that says where."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise InputError(f"{name}: plan format {data['format']!r}, this version reads {FORMAT}")
            choices: dict[Site, Choice] = {}
            for entry in data["sites"]:
                site = dict(entry["site"])
                choice = dict(entry["choice"])
                scheme = schemes()[choice["scheme"]]
                if choice["params"] is not None:
                    choice["params"] = scheme.from_json(choice["params"])
                choices[Site(**site | {"role": Role(site["role"]), "part": Part(site["part"])})] = Choice(**choice)
            return cls(choices, recipe=data["recipe"], bits=data["bits"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name}: not a plan written by onnxptq ({type(error).__name__}: {error})") from error

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """The plan in a file written by ``--plan-out``."""
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot read the plan: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_json(text, name=str(path))
