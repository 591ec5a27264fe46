"""Asymmetric calibration: solve each weight from its inputs in the original and in the quantized graph.

Samples walk through both graphs side by side; a weight is solved for as soon as both of its inputs are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.calibration import machine
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.padding import valid_rows
from onnxptq.calibration.progress import Progress, Silent
from onnxptq.calibration.residuals import Residual, Residuals
from onnxptq.calibration.shelf import Shelf
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.stages import Replaced, Stages, Stream
from onnxptq.calibration.statistics.base import F32
from onnxptq.calibration.statistics.rows import spread_rows
from onnxptq.calibrators.search.refit import InputMoments, Refit, Settings, refit
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.structure import Window

I64 = NDArray[np.int64]
WALK = 1000
"""The number of this walk in a checkpoint, after all others."""
ROWS = 4096


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
        if self.window is None:
            return x.reshape(-1, x.shape[-1])[chosen]
        view = self.window.rows(x)
        lead = view.shape[: x.ndim - 1]
        return view[np.unravel_index(chosen, lead)].reshape(len(chosen), -1)

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of rows of an input of that shape."""
        if self.window is None:
            return int(np.prod(shape[:-1]))
        return int(np.prod(self.window.rows(np.broadcast_to(np.float32(0), shape)).shape[: len(shape) - 1]))

    def kernel(self, values: F32) -> F32:
        """A matrix [K, N] in the shape of the weight."""
        if self.window is None:
            return values
        return np.ascontiguousarray(values.T).reshape(values.shape[1], -1, *self.window.shape)

    def shift(self, values: F32) -> F32:
        """A vector [N] in a shape that broadcasts against the output."""
        return values if self.window is None else values.reshape(1, -1, *[1] * len(self.window.shape))


class TwoStreams:
    """One walk in graph order. ``original`` is the graph itself, ``coded`` the graph with coded activations; node names
    are the same."""

    def __init__(
        self,
        original: onnx.ModelProto,
        coded: onnx.ModelProto,
        targets: Sequence[Target],
        source: Source,
        *,
        paddings: Mapping[str, Padding],
        memory_limit: int | None = None,
        threads: int | None = None,
        checkpoint: Checkpoint | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.source, self.paddings = source, paddings
        self._limit = memory_limit if memory_limit is not None else machine.available() // 4
        self._threads, self._checkpoint, self._progress = threads, checkpoint, progress or Silent()
        masks = {padding.mask for padding in paddings.values()}
        self._stages = Stages(original, self.targets, keep=masks), Stages(coded, self.targets)
        self._residuals = Residuals(original)
        self._inputs = {node.name: node.input[0] for node in coded.graph.node if node.name in self.targets}
        self.found: dict[str, Refit] = {}

    def run(self) -> dict[str, Refit]:
        """The refitted weights by node name."""
        mark = hashlib.sha256(
            repr([(t.name, t.bits, t.symmetric, t.settings) for t in self.targets.values()]).encode()
        ).hexdigest()
        state = self._checkpoint.load(WALK, mark) if self._checkpoint is not None else None
        known = {str(arrays["name"]): arrays for arrays in state.arrays} if state is not None else {}
        with Shelf(self._limit) as shelf:
            original, coded = (
                Stream(name, stages, self.source, shelf, threads=self._threads)
                for name, stages in zip(("original", "coded"), self._stages, strict=True)
            )
            with self._progress.task("weights", len(self.targets)) as step:
                for stage in range(len(self._stages[0])):
                    for name in self._stages[0].at(stage):
                        target = self.targets[name]
                        self.found[name] = (
                            _loaded(known[name]) if name in known else self._refit(target, original, coded)
                        )
                        values = self.found[name]
                        coded.replaced[name] = Replaced(target.kernel(values.weight), target.shift(values.shift))
                        step()
                    if self._checkpoint is not None and self.found and self._checkpoint.due():
                        self._checkpoint.save(
                            WALK, mark, [1] * len(self.found), [_saved(n, r) for n, r in self.found.items()]
                        )
                    for stream in (original, coded):
                        for _ in stream.advance():
                            pass
        return self.found

    def _refit(self, target: Target, original: Stream, coded: Stream) -> Refit:
        inputs, outputs = target.weight.shape
        chosen = self._chosen(target, original)
        count = sum(len(rows) for rows in chosen)
        solve = target.settings.solve and count >= target.settings.rows * inputs
        moments = InputMoments(inputs, outputs)
        residual, places = self._residual(target, original, coded) if solve and target.settings.residual else (None, [])
        if residual is not None:
            chosen = [rows[place[rows] >= 0] for rows, place in zip(chosen, places, strict=True)]
        for index, rows in enumerate(chosen):
            if not len(rows):
                continue
            a = target.pick(coded.value(index, self._inputs[target.name]), rows)
            if not solve:
                moments.add(a)
                continue
            output = target.pick(original.value(index, target.input), rows).astype(np.float64) @ target.weight
            streams = None
            if residual is not None:
                met = places[index][rows]
                streams = (
                    _rows_of(original.value(index, residual.stream), met),
                    _rows_of(coded.value(index, residual.stream), met),
                )
            moments.add(a, output, streams)
        return refit(
            target.weight, moments, target.bits, symmetric=target.symmetric, solve=solve, settings=target.settings
        )

    def _residual(self, target: Target, original: Stream, coded: Stream) -> tuple[Residual | None, list[I64]]:
        """The residual stream that a linear writes into, and for each sample the stream's row of each output row."""
        residual = self._residuals.of(target.name) if target.window is None else None
        if residual is None or not (original.holds(residual.stream) and coded.holds(residual.stream)):
            return None, []
        found = []
        for index in range(len(self.source)):
            shape = (*original.shape(index, target.input)[:-1], target.weight.shape[1])
            place = residual.places(shape, original.shape(index, residual.stream))
            if place is None:
                return None, []
            found.append(place)
        return residual, found

    def _chosen(self, target: Target, original: Stream) -> list[I64]:
        """The rows of each sample that are read: those of tokens that count, evenly thinned out where they are many."""
        whole = [self._rows(target, original, index) for index in range(len(self.source))]
        total = sum(len(rows) for rows in whole)
        wanted = max(ROWS, 2 * target.settings.rows * len(target.weight))
        if total <= wanted:
            return whole
        return [
            rows[spread_rows(len(rows), -(-len(rows) * wanted // total), index)] for index, rows in enumerate(whole)
        ]

    def _rows(self, target: Target, original: Stream, index: int) -> I64:
        shape = original.shape(index, target.input)
        rows = np.arange(target.count(shape))
        padding = self.paddings.get(target.input)
        if padding is None or target.window is not None:
            return rows
        mask = original.value(index, padding.mask)
        kept: I64 = valid_rows(rows.reshape(*shape[:-1], 1), mask, padding.axis, None).reshape(-1)  # type: ignore[arg-type,assignment]
        return kept


def _rows_of(x: F32, places: I64) -> F32:
    return x.reshape(-1, x.shape[-1])[places]


def _saved(name: str, found: Refit) -> dict[str, NDArray[Any]]:
    return {"name": np.array(name), **{key: np.asarray(value) for key, value in found.__dict__.items()}}


def _loaded(arrays: Mapping[str, NDArray[Any]]) -> Refit:
    held = {key: array for key, array in arrays.items() if key != "name"}
    return replace(Refit(**held), solved=bool(held["solved"]))  # type: ignore[arg-type]
