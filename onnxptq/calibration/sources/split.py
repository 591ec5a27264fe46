"""Split: some consecutive samples of a source, and how samples are shared out between calibration and measurement."""

from __future__ import annotations

from collections.abc import Iterator

from onnxptq.calibration.sources.source import Sample, Source

HELD_BACK = 4
"""Samples kept out of calibration to measure on, where there are enough: at most a fifth."""


class Split(Source):
    """The samples ``start`` to ``stop`` (not included) of another source."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source, self._start, self._stop = source, start, stop
        self.name, self.inputs = source.name, source.inputs

    def __len__(self) -> int:
        return self._stop - self._start

    def label(self, index: int) -> str:
        """As the whole source calls it."""
        return self._source.label(self._start + index)

    def _sample(self, index: int) -> Sample:
        return next(self._source.iterate(self._start + index))

    def iterate(self, start: int = 0) -> Iterator[Sample]:
        """The samples from number ``start`` on."""
        samples = self._source.iterate(self._start + start)
        for _ in range(start, len(self)):
            yield next(samples)

    def digest(self) -> str:
        """That of the whole source, and the place in it."""
        return f"{self._source.digest()}:{self._start}:{self._stop}"


def split_samples(source: Source) -> tuple[Source, Source]:
    """Samples to calibrate on and samples to measure on; the same ones where there are fewer than five."""
    count = len(source)
    held = min(HELD_BACK, count // 5)
    return (Split(source, 0, count - held), Split(source, count - held, count)) if held else (source, source)
