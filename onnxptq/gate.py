"""The gate: how well a candidate's outputs agree with the original's, by which one of two is kept."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from onnxptq.calibration.sources import Source
from onnxptq.calibration.stretch import Stretch
from onnxptq.compare import Metrics

SAMPLES = 16


@dataclass(frozen=True)
class Verdict:
    """Mean agreement of the masks where outputs are masks, and mean SQNR. Higher SQNR can mean worse masks, so masks come first."""

    agreement: float | None
    sqnr: float | None

    @classmethod
    def of(cls, outputs: Mapping[str, Metrics]) -> Verdict:
        """The verdict on some outputs. Few digits: executors differ in the last ones, and a choice should not."""
        masks = [one.agreement for one in outputs.values() if one.agreement is not None]
        ratios = [min(one.median, 200.0) for one in outputs.values() if one.median is not None]
        return cls(
            round(100 * statistics.fmean(masks), 2) if masks else None, round(max(statistics.fmean(ratios), -200.0), 2) if ratios else None
        )

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.agreement if self.agreement is not None else 0.0, self.sqnr if self.sqnr is not None else 0.0

    def __str__(self) -> str:
        parts = [f"mask agreement {self.agreement:.1f} %"] if self.agreement is not None else []
        return ", ".join([*parts, *([f"SQNR {self.sqnr:.1f} dB"] if self.sqnr is not None else [])]) or "no figure"


def samples_of(source: Source) -> Source:
    """The samples judged on: the last ones, among them those that are kept out of calibration."""
    return Stretch(source, max(len(source) - SAMPLES, 0), len(source))
