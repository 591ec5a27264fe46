"""The gate: of several ways to quantize, the one is kept whose outputs agree best with the original's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxptq.calibration.sources import Source
from onnxptq.calibration.stretch import Stretch
from onnxptq.compare import Metrics, compare
from onnxptq.errors import ArtifactError
from onnxptq.verify import Cut, Spool, run

SAMPLES = 16


@dataclass(frozen=True)
class Verdict:
    """Mean agreement of the masks where outputs are masks, and mean SQNR. Higher SQNR can mean worse masks, so masks come first."""

    agreement: float | None
    sqnr: float | None

    @classmethod
    def of(cls, outputs: Mapping[str, Metrics]) -> Verdict:
        """The verdict on some outputs. Few digits: executors differ in the last ones, and a choice should not."""
        masks = [100 * one.agreement for one in outputs.values() if one.agreement is not None]
        ratios = [min(max(one.median, -200.0), 200.0) for one in outputs.values() if one.median is not None]
        return cls(round(statistics.fmean(masks), 2) if masks else None, round(statistics.fmean(ratios), 2) if ratios else None)

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.agreement if self.agreement is not None else 0.0, self.sqnr if self.sqnr is not None else 0.0

    def __str__(self) -> str:
        parts = [f"mask agreement {self.agreement:.1f} %"] if self.agreement is not None else []
        return ", ".join([*parts, *([f"SQNR {self.sqnr:.1f} dB"] if self.sqnr is not None else [])]) or "no figure"


def judge(
    original: onnx.ModelProto, candidates: Mapping[str, onnx.ModelProto], source: Source, *, cut: Cut, threads: int | None
) -> tuple[str, str]:
    """The name of the best candidate (of equals the first), and a sentence with all verdicts.

    Judged on the last samples, among them those that are kept out of calibration.
    """
    samples = list(Stretch(source, max(len(source) - SAMPLES, 0), len(source)))
    verdicts: dict[str, Verdict] = {}
    with Spool() as expected:
        expected.fill(run(original, samples, name="the original", cut=cut, threads=threads))
        for name, proto in candidates.items():
            got = run(proto, samples, name=f"the model with weights {name}", cut=cut, threads=threads)
            verdicts[name] = Verdict.of(compare(expected, got, error=ArtifactError))
    best = max(verdicts, key=lambda name: verdicts[name].rank)
    return best, "; ".join(f"{name}: {verdict}" for name, verdict in verdicts.items()) + f"; kept: {best}"
