"""token: no calibration; each row (of an attention's values: each column) gets its range at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

from onnxptq.bits import WIDEST
from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.calibrators.base import REGISTRY, Calibrator, Search
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site

STATIC = ("", "minmax", "percentile", "omse", "avgminmax", "avgomse")


class Token(Calibrator):
    """For dynamic schemes: no parameters except the width.

    Option ``short`` names a calibrator of static ranges, by head (values: by channel), for an attention's operands
    whose rows are so short that a range takes as many bits as the row's codes. Codes of 8 bits keep their ranges.
    """

    name = "token"
    options: ClassVar[Mapping[str, Any]] = {"short": ""}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"short": STATIC}

    def search(self, site: Site, choice: Choice) -> Search:
        """No walk; with ``short`` one, for the length of a row, and those of the calibrator that it names."""
        scheme = schemes()[choice.scheme]
        if not scheme.dynamic:
            raise InputError(
                f"site {site.key}: calibrator 'token' is for schemes that take ranges at run time, not "
                f"{choice.scheme!r}"
            )
        column = choice.granularity == "column"
        if column and site.role is not Role.VALUE:
            raise InputError(
                f"site {site.key}: ranges of columns are for an attention's values, not for {site.role}; use "
                f"granularity 'row'"
            )
        options = {key: value for key, value in choice.options.items() if key not in ("short", "heads")}
        short = self.settings(choice.options)["short"]
        if short and choice.bits < WIDEST and "heads" in choice.options:
            seen = cast(RowSample, (yield Request(site.tensor, RowSample(1, -2 if column else -1))))
            if seen.seen and scheme.range_bits >= choice.bits * seen.sample.shape[1]:
                granularity, kept = "channel" if column else "head", options | {"heads": choice.options["heads"]}
                static = replace(choice, scheme="uniform", calibrator=short, granularity=granularity, options=kept)
                return (yield from REGISTRY[short].search(site, static))
        granularity = options.get("geometry", choice.granularity)
        return replace(choice, granularity=granularity, params=scheme.params(choice.bits), options=options)
