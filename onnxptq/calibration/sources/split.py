"""Split: consecutive samples of a source; and the division of samples among calibration, selection and report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxptq.calibration.sources.source import Sample, Source

REPORTED = 4
"""Number of samples reserved for the report, if there are enough."""
SELECTED = 16
"""Number of samples reserved for the selection, if there are enough."""


class Split(Source):
    """The samples ``start`` to ``stop`` (exclusive) of another source."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source, self._start, self._stop = source, start, stop
        self.name, self.inputs, self.notes = source.name, source.inputs, source.notes

    def __len__(self) -> int:
        return self._stop - self._start

    def label(self, index: int) -> str:
        """The label in the whole source."""
        return self._source.label(self._start + index)

    def _sample(self, index: int) -> Sample:
        return next(self._source.iterate(self._start + index))

    def iterate(self, start: int = 0) -> Iterator[Sample]:
        """The samples from number ``start`` on."""
        samples = self._source.iterate(self._start + start)
        for _ in range(start, len(self)):
            yield next(samples)

    def chosen(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """See Source."""
        first = self._start
        inner = range(first + indices.start, first + min(indices.stop, len(self)), indices.step)
        for index, sample in self._source.chosen(inner):
            yield index - first, sample

    def digest(self) -> str:
        """The digest of the whole source, and the bounds."""
        return f"{self._source.digest()}:{self._start}:{self._stop}"


@dataclass(frozen=True)
class Samples:
    """Samples by purpose. If there are too few to reserve any, all three are the same."""

    calibration: Source
    selection: Source
    report: Source

    @property
    def apart(self) -> bool:
        """Whether nothing else used the report's samples."""
        return self.report is not self.calibration


def extra(limit: int | None, *, selecting: bool) -> int:
    """The number of samples beyond ``limit`` to ask a source for: those reserved for selection and report."""
    return 0 if limit is None else min(REPORTED, limit) + (min(SELECTED, limit) if selecting else 0)


def split_samples(source: Source, limit: int | None, *, selecting: bool) -> Samples:
    """Split samples among calibration, selection and report.

    The first ``limit`` samples calibrate, if enough remain for the others. Without a limit four fifths calibrate, or
    three fifths if there is a selection. Fewer than five samples serve all purposes.
    """
    count = len(source)
    if limit is not None and count >= limit + 1 + selecting:
        report = min(REPORTED, limit, (count - limit) // 2 if selecting else count - limit)
        chosen = min(SELECTED, limit, count - limit - report) if selecting else 0
    else:
        report = min(REPORTED, count // 5)
        chosen = min(SELECTED, count // 5) if selecting else 0
    if not report:
        return Samples(source, source, source)
    first = count - report - chosen
    calibration = Split(source, 0, first if limit is None else min(first, limit))
    selection = Split(source, first, first + chosen) if chosen else calibration
    return Samples(calibration, selection, Split(source, count - report, count))
