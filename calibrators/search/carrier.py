"""Carrier: samples on their way through the original and the coded graph, and what they say about a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.padding import valid_rows
from onnxptq.calibration.residuals import Residual, Residuals
from onnxptq.calibration.shelf import Shelf
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.stages import Replaced, Sizes, Stages, Stream
from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.calibration.statistics.rows import spread_rows
from onnxptq.calibrators.search.refit import InputMoments, Settings
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.structure import Window

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """A linear or convolution whose weight is to be found."""

    name: str
    input: str
    weight: F32
    """[K, N]: inputs (of all places of a kernel), outputs."""
    bits: int
    symmetric: bool = False
    window: Window | None = None
    settings: Settings = field(default_factory=Settings)

    def pick(self, x: F32, chosen: I64) -> F32:
        """The chosen rows [*, K] of those that the weight multiplies."""
        return x.reshape(-1, x.shape[-1])[chosen] if self.window is None else self.window.pick(x, chosen)

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of rows of an input of that shape."""
        return int(np.prod(shape[:-1])) if self.window is None else self.window.count(shape)

    def kernel(self, values: F32) -> F32:
        """A matrix [K, N] in the shape of the weight."""
        if self.window is None:
            return values
        return np.ascontiguousarray(values.T).reshape(values.shape[1], -1, *self.window.shape)

    def shift(self, values: F32) -> F32:
        """A vector [N] in a shape that broadcasts against the output."""
        return values if self.window is None else values.reshape(1, -1, *[1] * len(self.window.shape))


class Carrier:
    """The two graphs, and the tensors of its samples that later stages read. Workers hold one each."""

    def __init__(
        self,
        stages: tuple[Stages, Stages],
        targets: Sequence[Target],
        source: Source,
        *,
        paddings: Mapping[str, Padding],
        limit: int,
        threads: int | None,
    ) -> None:
        self._targets = {target.name: target for target in targets}
        self._paddings, self._shelf = paddings, Shelf(limit)
        self._residuals = Residuals(stages[0].proto)
        self._inputs = {node.name: node.input[0] for node in stages[1].proto.graph.node if node.name in self._targets}
        self._original, self._coded = (
            Stream(name, one, source, self._shelf, threads=threads)
            for name, one in zip(("original", "coded"), stages, strict=True)
        )

    def close(self) -> None:
        """Remove temporary files."""
        self._shelf.close()

    def advance(
        self, indices: range, sizes: tuple[Sizes, Sizes], replaced: Mapping[str, Replaced]
    ) -> Iterator[tuple[Sizes, Sizes]]:
        """Run the next stage of both graphs, the coded one with these weights replaced; the sizes of the results."""
        self._coded.replaced |= replaced
        yield from zip(self._original.advance(indices, sizes[0]), self._coded.advance(indices, sizes[1]), strict=True)

    def survey(self, indices: range, name: str) -> Iterator[tuple[int, bool]]:
        """The number of rows of each sample that count, and whether they correspond to rows of a residual stream."""
        target = self._targets[name]
        residual = self._residual(target) if target.settings.solve and target.settings.residual else None
        for index in indices:
            place = self._places(target, residual, index) if residual is not None else None
            yield len(self._rows(target, index)), place is not None

    def moments(
        self, indices: range, name: str, share: tuple[int, int], solve: bool, joined: bool
    ) -> Iterator[InputMoments]:
        """The sums over each sample's rows, of which this share is read; ``joined``: with the residual stream."""
        target = self._targets[name]
        residual = self._residual(target) if joined else None
        for index in indices:
            rows = self._rows(target, index)
            if share[0] < share[1]:
                rows = rows[spread_rows(len(rows), thinned(len(rows), share), index)]
            place = self._places(target, residual, index) if residual is not None else None
            if place is not None:
                rows = rows[place[rows] >= 0]
            moments = InputMoments(*target.weight.shape)
            if len(rows):
                moments.add(*self._read(target, index, rows, solve, residual, place))
            yield moments

    def _read(
        self, target: Target, index: int, rows: I64, solve: bool, residual: Residual | None, place: I64 | None
    ) -> tuple[F32, F64 | None, tuple[F32, F32] | None]:
        """Coded inputs; where the weight is solved for, original outputs; and both residual streams."""
        a = target.pick(self._coded.value(index, self._inputs[target.name]), rows)
        if not solve:
            return a, None, None
        output = target.pick(self._original.value(index, target.input), rows).astype(np.float64) @ target.weight
        if residual is None or place is None:
            return a, output, None
        original, coded = (
            _rows_of(stream.value(index, residual.stream), place[rows]) for stream in (self._original, self._coded)
        )
        return a, output, (original, coded)

    def _residual(self, target: Target) -> Residual | None:
        """The residual stream that a linear writes into, if both graphs still hold it."""
        residual = self._residuals.of(target.name) if target.window is None else None
        held = residual is not None and all(one.holds(residual.stream) for one in (self._original, self._coded))
        return residual if held else None

    def _places(self, target: Target, residual: Residual, index: int) -> I64 | None:
        """The stream's row of each output row."""
        shape = (*self._original.shape(index, target.input)[:-1], target.weight.shape[1])
        return residual.places(shape, self._original.shape(index, residual.stream))

    def _rows(self, target: Target, index: int) -> I64:
        """The rows of a sample: those of tokens that count."""
        shape = self._original.shape(index, target.input)
        rows = np.arange(target.count(shape))
        padding = self._paddings.get(target.input)
        if padding is None or target.window is not None:
            return rows
        mask = self._original.value(index, padding.mask)
        kept: I64 = valid_rows(rows.reshape(*shape[:-1], 1), mask, padding.axis, None).reshape(-1)  # type: ignore[arg-type,assignment]
        return kept


def thinned(rows: int, share: tuple[int, int]) -> int:
    """How many rows of a sample are read, if ``share[0]`` of ``share[1]`` rows of all samples are."""
    return -(-rows * share[0] // share[1])


def _rows_of(x: F32, places: I64) -> F32:
    return x.reshape(-1, x.shape[-1])[places]
