"""Target: the runtime that a file is for, and the codes that it multiplies in integers. Data in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.bits import FLOAT, WIDTHS, Bits
from onnxptq.errors import InputError, nearest
from onnxptq.lower import Format

if TYPE_CHECKING:
    from onnxptq.plan import Choice, Plan
    from onnxptq.recipe import Recipe
    from onnxptq.structure import Site

ANY = (*WIDTHS, FLOAT)


@dataclass(frozen=True)
class Codes:
    """The codes that a target takes."""

    bits: tuple[int, ...] = ANY
    symmetric: bool = False
    """Codes around 0 only."""
    together: int | None = None
    """Maximum bits of a weight and the activation that it multiplies."""


@dataclass(frozen=True)
class Target:
    """A runtime, known before calibration: every choice of a run is made under its constraints."""

    name: str
    description: str
    format: Format
    weights: Codes = Codes()
    activations: Codes = Codes()
    signed: bool = False
    """Store the codes of activations as INT8."""
    float: tuple[str, ...] = ()
    """Roles that stay in float: their codes cost this runtime more than they save, or it has none for them."""

    how_to_load: str | None = None
    """How its runtime loads the file, in words."""
    rules: tuple[str, ...] = ()
    """Rules of ``rules.py`` that a file for this runtime keeps."""

    @property
    def codes(self) -> Mapping[str, Codes]:
        """The codes of weights and of activations."""
        return {"weights": self.weights, "activations": self.activations}

    @classmethod
    def names(cls) -> list[str]:
        """The targets there are."""
        return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))

    @classmethod
    @cache
    def load(cls, name: str) -> Target:
        """A target by name; an InputError that lists them for another name."""
        if name not in cls.names():
            raise InputError(
                f"unknown target {name!r}{nearest(str(name), cls.names())}; use one of {', '.join(cls.names())}"
            )
        data: dict[str, Any] = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text())
        for key in ("weights", "activations"):
            given = data.get(key, {})
            data[key] = Codes(tuple(given.get("bits", ANY)), given.get("symmetric", False), given.get("together"))
        return cls(name, **data | {key: tuple(data.get(key, ())) for key in ("float", "rules")})

    def require(self, bits: Bits) -> None:
        """An InputError for widths that the runtime has no codes for."""
        for what, codes in self.codes.items():
            width = getattr(bits, what)
            if width not in codes.bits:
                raise InputError(
                    f"target {self.name}: no {what} of {width} bits; use {', '.join(map(str, codes.bits))}, "
                    "or another target"
                )

    def suited(self, recipe: Recipe, bits: Bits) -> Recipe:
        """The recipe under the target's constraints."""
        sections: dict[str, dict[str, Any]] = {
            what: {"symmetric": True} for what, codes in self.codes.items() if codes.symmetric
        }
        if self._width(bits) < bits.weights:
            sections["weights"] = {**sections.get("weights", {}), "bits": self._width(bits)}
        return recipe.extend({**sections, "roles": {role: {"bits": FLOAT} for role in self.float}})

    def _width(self, bits: Bits) -> int:
        """The width of weights: as asked for, or as many bits as fit together with those of activations."""
        if self.weights.together is None or FLOAT in (bits.weights, bits.activations):
            return bits.weights
        return min(bits.weights, self.weights.together - bits.activations)

    def notes(self, plan: Plan, bits: Bits) -> list[str]:
        """A sentence if weights have fewer bits than were asked for."""
        width = self._width(bits)
        if width == bits.weights or not any(
            c.bits == width for key, c in plan.items() if plan.sites[key].role == "weight"
        ):
            return []
        return [
            f"target {self.name}: weights use {width} of {bits.weights} bits: their products with activations of "
            f"{bits.activations} bits overflow 16 bits on x86 without VNNI; --set weights.bits=8 is for other machines"
        ]

    def refuse(self, plan: Plan) -> None:
        """An InputError if choices of a plan, or settings of the user, contradict the target."""
        wrong = {key: why for key, choice in plan.items() if (why := self._against(plan.sites[key], choice))}
        if wrong:
            first, why = next(iter(wrong.items()))
            raise InputError(
                f"target {self.name}: {len(wrong)} sites contradict it; first: {first}: {why}; "
                "leave that setting out, or use another target"
            )

    def _against(self, site: Site, choice: Choice) -> str:
        if site.role in self.float:
            return f"{site.role} stays in float"
        what = "weights" if site.role == "weight" else "activations"
        codes = self.codes[what]
        if choice.bits not in codes.bits:
            return f"{choice.bits} bits, where {what} have {', '.join(map(str, codes.bits))}"
        return f"{what} are symmetric" if codes.symmetric and not choice.symmetric else ""
