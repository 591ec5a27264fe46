"""agq: the base and the largest value of log-base codes, by the attention's output (adaptive granularity of PTQ4SAM,
section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibrators.base import Calibrator, Search, require_values
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
    """Least mean |Q(P) V - P V|^exponent over a fixed grid: each tau, and 12 largest values an octave, of the same for
    all samples.

    Options: ``taus`` (``paper``, ``fine``, or numbers), ``exponent`` (2.4, as published, or 2), ``objective``
    (``output``, or ``map`` for the error of P itself, which the paper argues against), ``rows`` (sampled from each
    sample). The published search minimises over s image by image and averages what it finds, an s whose error nobody
    has measured.
    """

    name = "agq"

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        given = choice.options
        taus, exponent, rows = (
            self._taus(site, given.get("taus", "paper")),
            float(given.get("exponent", 2.4)),
            int(given.get("rows", ROWS)),
        )
        objective = given.get("objective", "output")
        if choice.scheme != "log_base" or not site.partner:
            raise InputError(
                f"site {site.key}: calibrator 'agq' finds codes of scheme 'log_base' for softmax outputs, "
                f"not of {choice.scheme!r} for {site.role}"
            )
        if rows < 1 or exponent <= 0:
            raise InputError(
                f"site {site.key}: calibrator 'agq': rows = {rows}, exponent = {exponent:g}; both must be positive"
            )
        if objective not in OBJECTIVES:
            raise InputError(
                f"site {site.key}: calibrator 'agq': unknown objective "
                f"{objective!r}{nearest(str(objective), OBJECTIVES)}"
            )
        found: OutputErrors | LogHistogram
        if objective == "output":
            found = OutputErrors(choice.bits, taus, exponent, rows)
            found = cast(OutputErrors, (yield Request(site.tensor, found, partners=(site.partner,))))
            tau, scale = found.best()
        else:
            found = cast(LogHistogram, (yield Request(site.tensor, LogHistogram(rows))))
            tau, scale = of_map(found, choice.bits, taus, exponent)
        require_values(site, found.samples)
        return replace(choice, params=LogBaseParams(choice.bits, scale, tau))

    @staticmethod
    def _taus(site: Site, given: str | Sequence[Any]) -> tuple[float, ...]:
        if isinstance(given, str) and given not in TAUS:
            raise InputError(f"site {site.key}: calibrator 'agq': unknown taus {given!r}{nearest(given, TAUS)}")
        taus = TAUS[given] if isinstance(given, str) else tuple(float(tau) for tau in given)
        for tau in taus:
            if not tau > 0 or not (FINE / tau).is_integer() or FINE / tau % 2:
                raise InputError(
                    f"site {site.key}: calibrator 'agq': tau {tau:g} does not fit; {FINE} / tau must be an even number"
                )
        return taus


def of_map(seen: LogHistogram, bits: int, taus: Sequence[float], exponent: float) -> tuple[float, float]:
    """The tau and the largest value whose codes change the weights themselves least."""
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
