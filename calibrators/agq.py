"""agq: log-base codes with the least error of the attention's output (adaptive granularity, PTQ4SAM section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibrators.base import MOST_ROWS, Calibrator, Search, require_values
from onnxptq.calibrators.search.log_errors import FINE, REACH, LogHistogram, OutputErrors, scales
from onnxptq.calibrators.search.objectives import few_digits
from onnxptq.errors import InputError, nearest
from onnxptq.ops import schemes
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.plan import Choice
from onnxptq.structure import Site

ROWS = 128
TAUS = {"paper": (1.0, 2.0, 4.0), "fine": (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)}
OBJECTIVES = ("output", "map")


class Agq(Calibrator):
    """Least mean |Q(P) V - P V|^exponent over a fixed grid of taus and largest values (12 an octave), shared by all
    samples.

    Options: ``taus`` (``paper``, ``fine``, or numbers), ``exponent`` (2.4, as published, or 2), ``objective``
    (``output``, or ``map`` for the error of P itself, which the paper argues against), ``rows`` (sampled from each
    sample). The published search minimises over s image by image and averages the results; nobody measures the error of
    the average.
    """

    name = "agq"
    options: ClassVar[Mapping[str, Any]] = {"taus": "paper", "exponent": 2.4, "objective": OBJECTIVES[0], "rows": ROWS}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"objective": OBJECTIVES}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"exponent": (0.1, 16), "rows": (1, MOST_ROWS)}

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        given = self.settings(choice.options)
        taus, exponent, rows = given["taus"], float(given["exponent"]), given["rows"]
        if choice.scheme != "log_base" or not site.partner:
            raise InputError(
                f"site {site.key}: calibrator 'agq' finds codes of scheme 'log_base' for softmax outputs, "
                f"not of {choice.scheme!r} for {site.role}"
            )
        found: OutputErrors | LogHistogram
        if given["objective"] == "output":
            found = OutputErrors(choice.bits, taus, exponent, rows)
            found = cast(OutputErrors, (yield Request(site.tensor, found, partners=(site.partner,))))
            tau, scale = found.best()
        else:
            found = cast(LogHistogram, (yield Request(site.tensor, LogHistogram(rows))))
            tau, scale = of_map(found, choice.bits, taus, exponent)
        require_values(site, found.samples)
        return replace(choice, params=LogBaseParams(choice.bits, scale, tau))

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The checked options, with ``taus`` as numbers."""
        taus = given.get("taus", "paper")
        named = super().settings({**given, "taus": "paper"})
        if isinstance(taus, str):
            if taus not in TAUS:
                raise InputError(f"calibrator 'agq', option 'taus': unknown {taus!r}{nearest(taus, TAUS)}")
            return named | {"taus": TAUS[taus]}
        if not isinstance(taus, (list, tuple)) or not taus:
            raise InputError(f"calibrator 'agq', option 'taus': expected a name or a list of numbers, got {taus!r}")
        for tau in taus:
            steps = FINE / tau if isinstance(tau, (int, float)) and not isinstance(tau, bool) and tau > 0 else 0.5
            if not steps.is_integer() or steps % 2 or not steps:
                raise InputError(f"calibrator 'agq': tau {tau!r} does not fit; {FINE} / tau must be an even number")
        return named | {"taus": tuple(float(tau) for tau in taus)}


def of_map(seen: LogHistogram, bits: int, taus: Sequence[float], exponent: float) -> tuple[float, float]:
    """The tau and the largest value with the least error of the attention weights themselves."""
    values, shares = seen.points()
    grid = [float(s) for s in scales() if REACH * seen.high <= s <= seen.high] or [1.0]
    candidates = [LogBaseParams(bits, s, tau) for tau in taus for s in grid]
    scheme = schemes()["log_base"]
    best = min(
        candidates,
        key=lambda p: float(
            few_digits(shares @ np.abs(scheme.fake(values, p) - values).astype(np.float64) ** exponent)
        ),
    )
    return best.tau, best.scale
