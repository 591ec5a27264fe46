"""Asymmetric calibration: solve each weight from its inputs in the original and in the quantized graph.

Samples walk through both graphs side by side; a weight is solved for as soon as both of its inputs are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq import machine
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress, Silent
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.stages import Replaced, Sizes, Stages, joined
from onnxptq.calibrators.search.carrier import Carrier, Target, thinned
from onnxptq.calibrators.search.refit import InputMoments, Refit, refit
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.workers import HERE, Team, Workers

WALK = 1000
"""The number of this walk in a checkpoint, after all others."""
ROWS = 4096


class TwoStreams:
    """One walk in graph order. ``original`` is the graph itself, ``coded`` the graph with coded activations; node names
    are the same. Workers carry the samples; every weight is solved here, from sums in the order of the samples."""

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
        workers: Workers = HERE,
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self._samples, self._workers = range(len(source)), workers
        self._checkpoint, self._progress = checkpoint, progress or Silent()
        masks = {padding.mask for padding in paddings.values()}
        self._stages = Stages(original, self.targets, keep=masks), Stages(coded, self.targets)
        self._make = partial(
            Carrier,
            self._stages,
            targets,
            source,
            paddings=paddings,
            limit=memory_limit if memory_limit is not None else machine.available() // 4 // workers.count,
            threads=workers.threads(threads),
        )
        self.found: dict[str, Refit] = {}

    def run(self) -> dict[str, Refit]:
        """The refitted weights by node name."""
        mark = hashlib.sha256(
            repr([(t.name, t.bits, t.symmetric, t.settings) for t in self.targets.values()]).encode()
        ).hexdigest()
        state = self._checkpoint.load(WALK, mark) if self._checkpoint is not None else None
        known = {str(arrays["name"]): arrays for arrays in state.arrays} if state is not None else {}
        sizes: tuple[Sizes, Sizes] = {}, {}
        with (
            Team(self._workers, self._make, most=len(self._samples)) as team,
            self._progress.task("weights", len(self.targets)) as step,
        ):
            for stage in range(len(self._stages[0])):
                replaced: dict[str, Replaced] = {}
                for name in self._stages[0].at(stage):
                    target = self.targets[name]
                    values = self.found[name] = _loaded(known[name]) if name in known else self._refit(target, team)
                    replaced[name] = Replaced(target.kernel(values.weight), target.shift(values.shift))
                    step()
                if self._checkpoint is not None and self.found and self._checkpoint.due():
                    self._checkpoint.save(
                        WALK, mark, [1] * len(self.found), [_saved(n, r) for n, r in self.found.items()]
                    )
                sizes = self._advance(team, stage, sizes, replaced)
        return self.found

    def _advance(
        self, team: Team, stage: int, sizes: tuple[Sizes, Sizes], replaced: Mapping[str, Replaced]
    ) -> tuple[Sizes, Sizes]:
        """The next stage on all samples; the sizes of all tensors so far."""
        fed = tuple(
            {name: known[name] for name in stages.fed(stage) if name in known}
            for stages, known in zip(self._stages, sizes, strict=True)
        )
        made: list[Sizes] = [{}, {}]
        for found in team.ask("advance", self._samples, fed, replaced, changes=True):
            made = [joined(before, more) for before, more in zip(made, found, strict=True)]
        return {**sizes[0], **made[0]}, {**sizes[1], **made[1]}

    def _refit(self, target: Target, team: Team) -> Refit:
        inputs, outputs = target.weight.shape
        settings = target.settings
        surveyed = list(team.ask("survey", self._samples, target.name))
        counts, total = [count for count, _ in surveyed], sum(count for count, _ in surveyed)
        # evenly thinned out where they are many
        share = max(ROWS, 2 * settings.rows * inputs), total
        read = sum(thinned(count, share) for count in counts) if share[0] < total else total
        solve = settings.solve and read >= settings.rows * inputs
        met = solve and settings.residual and all(met for _, met in surveyed)
        moments = InputMoments(inputs, outputs)
        for one in team.ask("moments", self._samples, target.name, share, solve, met):
            moments.merge(one)
        return refit(
            target.weight, moments, target.bits, symmetric=target.symmetric, solve=solve, settings=target.settings
        )


def _saved(name: str, found: Refit) -> dict[str, NDArray[Any]]:
    return {"name": np.array(name), **{key: np.asarray(value) for key, value in found.__dict__.items()}}


def _loaded(arrays: Mapping[str, NDArray[Any]]) -> Refit:
    held = {key: array for key, array in arrays.items() if key != "name"}
    return replace(Refit(**held), solved=bool(held["solved"]))  # type: ignore[arg-type]
