"""softmax: of several codes of a softmax, the one with the least error of the attention's output."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, NotFinite, Request
from onnxptq.calibration.statistics.rows import AttentionRows, RowSample
from onnxptq.calibrators.base import MOST_ROWS, Calibrator, Search
from onnxptq.calibrators.lloyd import lloyd
from onnxptq.calibrators.search.objectives import charge, few_digits
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.rows import RowParams
from onnxptq.ops.scheme import Params
from onnxptq.ops.table import table
from onnxptq.ops.uniform import affine
from onnxptq.plan import Choice
from onnxptq.structure import Site

ROWS = 128
TAUS = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
LARGEST = (1.0, 0.9, 0.8)
FULL = (1.0, 0.85, 0.7, 0.5, 0.35)
STATIC = 12
"""Candidates for the largest value of log-base codes of the weights themselves: 2 an octave."""
PLAIN = 48
"""Candidates for the largest value of static uniform codes: 4 an octave."""
FUSED = 8
"""Width from which static uniform codes of the weights are good enough; runtimes have fused products of them."""
_BLOCK = 1 << 22
"""Numbers held at a time."""


@dataclass(frozen=True)
class Candidate:
    """A code; ``norm``: of weights relative to the row's largest, the output divided by the sum of the decoded row."""

    scheme: str
    params: Params
    norm: bool

    def fake(self, rows: F32) -> F32:
        """Rows of weights, coded and decoded."""
        scheme = schemes()[self.scheme]
        if not self.norm:
            return scheme.fake(rows, self.params)
        held = scheme.fake(relative(rows), self.params)
        total = held.sum(axis=-1, keepdims=True)
        return np.asarray(held / np.where(total > 0, total, 1), np.float32)


def relative(rows: F32) -> F32:
    """Rows divided by their largest; rows of zeros stay zero."""
    top = rows.max(axis=-1, keepdims=True)
    return np.asarray(rows / np.where(top > 0, top, 1), np.float32)


def candidates(bits: int, levels: NDArray[np.float64]) -> Iterator[Candidate]:
    """The candidates; the first of equals wins. ``levels`` are values of a table for weights relative to their row's
    largest."""
    yield Candidate("row", RowParams(bits), False)
    yield from (Candidate("uniform", affine(0.0, f, bits), True) for f in FULL)
    yield from (Candidate("log_base", LogBaseParams(bits, s, tau), True) for tau in TAUS for s in LARGEST)
    yield Candidate("table", table(levels, bits), True)
    yield from (
        Candidate("log_base", LogBaseParams(bits, 2 ** (-i / 2), tau), False)
        for tau in (1.0, 2.0, 4.0)
        for i in range(STATIC)
    )


def uniform(bits: int) -> Iterator[Candidate]:
    """The candidates of static uniform codes: of the weights, or of weights relative to their row's largest."""
    if bits < FUSED:
        yield from (Candidate("uniform", affine(0.0, f, bits), True) for f in FULL)
    yield from (Candidate("uniform", affine(0.0, 2 ** (-i / 4), bits), False) for i in range(PLAIN))


class CodeErrors(AttentionRows):
    """Sum of |Q(P) v - P v|^2 over evenly spaced rows for each candidate; rows meet the values of their own head and
    window."""

    def __init__(self, tried: Sequence[Candidate], rows: int, seed: int = 0) -> None:
        self.tried, self.rows, self.seed, self.taken = tuple(tried), rows, seed, rows
        self.errors, self.count, self.keys = np.zeros(len(self.tried)), 0, 0

    def _add(self, rows: F32, shape: tuple[int, ...], *partners: F32) -> None:
        (v,) = partners
        if not (np.isfinite(rows).all() and np.isfinite(v).all()):
            raise NotFinite
        lead = shape[:-2]
        owner = self._chosen(shape) // shape[-2]
        whole = np.broadcast_to(v, (*lead, *v.shape[-2:])).reshape(-1, *v.shape[-2:])
        step = max(_BLOCK // (len(self.tried) * rows.shape[1]), 1)
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            changes = np.stack([candidate.fake(block) - block for candidate in self.tried])
            for head in np.unique(owner[start : start + step]):
                mine = changes[:, owner[start : start + step] == head]
                self.errors += np.square(mine @ whole[head], dtype=np.float64).sum(axis=(1, 2))
        self.count, self.keys = self.count + len(rows), max(self.keys, shape[-1])

    def merge(self, other: Self) -> Self:
        """The errors of both."""
        both = type(self)(self.tried, self.rows, self.seed)
        both.errors, both.count = self.errors + other.errors, self.count + other.count
        both.keys = max(self.keys, other.keys)
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"errors": self.errors, "count": np.array([self.count, self.keys])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.errors, (self.count, self.keys) = np.array(arrays["errors"]), (int(n) for n in arrays["count"])

    def kind(self) -> Hashable:
        """Type, candidates and settings."""
        return (type(self).__name__, tuple((c.scheme, c.params, c.norm) for c in self.tried), self.rows, self.seed)


class Softmax(Calibrator):
    """Candidates: per-row scales; uniform codes, log-base codes and a free table of weights relative to their row's
    largest; log-base codes of the weights themselves. Scheme ``uniform`` has uniform codes alone. Option ``rows``: rows
    measured of each sample."""

    name = "softmax"
    options: ClassVar[Mapping[str, Any]] = {"rows": ROWS}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"rows": (1, MOST_ROWS)}

    def search(self, site: Site, choice: Choice) -> Search:
        """Two walks: rows for the table, then the errors; uniform codes need the errors alone."""
        if not site.partner:
            raise InputError(f"site {site.key}: calibrator 'softmax' is for softmax outputs, not for {site.role}")
        rows = self.settings(choice.options)["rows"]
        if choice.scheme == "uniform":
            tried = tuple(uniform(choice.bits))
        else:
            seen = cast(RowSample, (yield Request(site.tensor, RowSample(ROWS)))).sample
            seen = relative(seen) if seen.size else np.ones((1, 1), np.float32)
            tried = tuple(candidates(choice.bits, lloyd(seen, np.ones(seen.shape[1]), choice.bits, 0.0, 1.0)))
        found = cast(CodeErrors, (yield Request(site.tensor, CodeErrors(tried, rows), partners=(site.partner,))))
        charges = np.array([charge(one.scheme, one.params, found.keys) for one in tried])
        best = tried[int(few_digits(found.errors * charges).argmin())]
        options = {**choice.options, "norm": int(best.norm)}
        return replace(
            choice,
            scheme=best.scheme,
            granularity="row" if best.scheme == "row" else "tensor",
            params=best.params,
            options=options,
        )
