"""Report: all results of a run. Plain data, filled by the quantizer; text and page are views of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError
from onnxptq.passes.base import Change
from onnxptq.running.metrics import Metrics
from onnxptq.structure import Part, Role

FORMAT = 1
WORST = 10
BINS = 128


@dataclass(frozen=True)
class Sizes:
    """Bytes, external data included."""

    before: int
    after: int
    weights_before: int = 0
    """The weights that were quantized, as FP32."""
    weights_after: int = 0
    """The same weights coded, with their scales and zero-points."""

    @property
    def ratio(self) -> float:
        """Factor by which the file is smaller."""
        return max(self.before, 1) / max(self.after, 1)


@dataclass(frozen=True)
class Calibration:
    """The source of the samples."""

    source: str
    """Description in words, with the number of samples."""
    samples: int
    held_back: int = 0
    """Samples reserved for measuring the outputs; 0: outputs were measured on those of calibration."""
    selected: int = 0
    """Samples reserved for the selection; 0: it used those of calibration, or there was none."""

    @property
    def words(self) -> str:
        """The split of the samples in words."""
        if not self.held_back:
            return f"{self.source}; the same to measure on: give five or more to keep some apart"
        chosen = f", {self.selected} to select" if self.selected else ""
        return f"{self.source}: {self.samples} to calibrate{chosen}, {self.held_back} to measure"


@dataclass(frozen=True)
class Stage:
    """One stage of the run."""

    name: str
    seconds: float
    peak: int | None = None
    """Peak memory of the process up to the end of this stage, bytes; None where the system does not say."""


@dataclass(frozen=True)
class Drawing:
    """A tensor's values and the grid they are rounded to."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]
    levels: tuple[float, ...]
    """The decoded values of the codes; for many channels those of the widest."""

    @classmethod
    def of(cls, counts: NDArray[Any], edges: NDArray[Any], levels: Sequence[float], *, bins: int = BINS) -> Drawing:
        """A histogram cut to its filled range, in at most ``bins`` bars."""
        used = np.flatnonzero(counts)
        if not used.size:
            return cls((), (), tuple(float(v) for v in levels))
        first, last = int(used[0]), int(used[-1]) + 1
        step = -(-(last - first) // bins)
        starts = np.arange(first, last, step)
        sums = np.add.reduceat(counts[:last], starts)
        kept = edges[np.append(starts, last)]
        return cls(tuple(int(v) for v in sums), tuple(float(v) for v in kept), tuple(float(v) for v in levels))


@dataclass(frozen=True)
class SiteReport:
    """One site and its quantization."""

    key: str
    tensor: str
    role: Role
    part: Part
    scheme: str
    calibrator: str
    bits: int
    bits_per_element: float
    """True storage of one element, scales, tables and index bits included."""
    granularity: str
    params: str = ""
    """The parameters in a few words."""
    sqnr: float | None = None
    """SQNR of the tensor itself after coding, dB; None where it was not measured."""
    drawing: Drawing | None = None


@dataclass(frozen=True)
class Layer:
    """The error of one inner tensor of the finished model, in order of depth."""

    name: str
    part: Part
    kind: str
    """linear, conv or attention."""
    metrics: Metrics


@dataclass(frozen=True)
class Verdict:
    """Scores of one candidate in the selection: means over the outputs. Higher SQNR can mean worse masks, so masks come
    first."""

    candidate: str
    agreement: float | None
    """Overlap of masks in percent, where outputs are masks."""
    sqnr: float | None
    kept: bool = False

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.agreement if self.agreement is not None else 0.0, self.sqnr if self.sqnr is not None else 0.0


@dataclass(frozen=True)
class Report:
    """A whole run."""

    model: str
    recipe: str
    bits: str
    format: str
    sizes: Sizes
    calibration: Calibration
    sites: tuple[SiteReport, ...]
    outputs: Mapping[str, Metrics]
    output_file: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """All settings that decided the result: preprocessing, seed, constants, switches of the recipe ..."""
    structure: Mapping[str, int] = field(default_factory=dict)
    """Number of linears, convolutions, attentions ... found."""
    stages: tuple[Stage, ...] = ()
    layers: tuple[Layer, ...] = ()
    changes: tuple[Change, ...] = ()
    drift: Mapping[str, float] = field(default_factory=dict)
    """Change of each output by the passes, as signal to difference in dB."""
    selection: tuple[Verdict, ...] = ()
    """The candidates of the selection, one of them kept; empty where there was no choice."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Events that need no warning."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions, machine, executor."""

    def __repr__(self) -> str:
        return f"<Report: {self.model}, {self.bits} by recipe {self.recipe}, {len(self.sites)} sites>"

    @property
    def worst(self) -> list[SiteReport]:
        """The ten sites with the lowest SQNR, worst first."""
        measured = [site for site in self.sites if site.sqnr is not None]
        return sorted(measured, key=lambda site: (site.sqnr, site.key))[:WORST]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; infinities become the texts "inf" and "-inf"."""
        plain: dict[str, Any] = {
            "report": FORMAT,
            **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)},
        }
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, name: str = "report") -> Report:
        """The inverse of ``to_json``; anything else is an InputError."""
        try:
            given = dict(data)
            if given.pop("report") != FORMAT:
                raise InputError(f"{name}: report format {data['report']!r}, this version reads {FORMAT}")
            given["sizes"] = Sizes(**given["sizes"])
            given["calibration"] = Calibration(**given["calibration"])
            given["sites"] = tuple(_site(entry) for entry in given["sites"])
            given["outputs"] = {key: Metrics.from_json(value) for key, value in given["outputs"].items()}
            given["stages"] = tuple(Stage(**entry) for entry in given["stages"])
            given["layers"] = tuple(
                Layer(entry["name"], Part(entry["part"]), entry["kind"], Metrics.from_json(entry["metrics"]))
                for entry in given["layers"]
            )
            given["drift"] = {key: float(value) for key, value in given["drift"].items()}
            given["changes"] = tuple(Change(**entry) for entry in given["changes"])
            given["selection"] = tuple(Verdict(**entry) for entry in given["selection"])
            return cls(**given | {key: tuple(given[key]) for key in ("warnings", "notes")})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name}: not a report written by onnxptq ({type(error).__name__}: {error})") from error


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(held) for held in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else str(float(value)) if math.isinf(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value


def _site(entry: Mapping[str, Any]) -> SiteReport:
    drawn = entry["drawing"]
    drawing = Drawing(**{key: tuple(held) for key, held in drawn.items()}) if drawn is not None else None
    sqnr = float(entry["sqnr"]) if entry["sqnr"] is not None else None
    changed: dict[str, Any] = {
        "role": Role(entry["role"]),
        "part": Part(entry["part"]),
        "sqnr": sqnr,
        "drawing": drawing,
    }
    return SiteReport(**{**entry, **changed})
