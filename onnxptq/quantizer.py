"""Quantizer: the API of the pipeline. ``pipeline/stages.py`` defines the stages of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxptq.calibration.progress import Progress, Silent
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.sources.split import Samples, extra, split_samples
from onnxptq.calibration.sources.synthetic import DEFAULT_COUNT
from onnxptq.datasets.draw import How
from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.passes.base import Change
from onnxptq.pipeline import candidates, reporting, stages
from onnxptq.pipeline.budget import broken, budgeted, check_size
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.given import adopted
from onnxptq.pipeline.guard import guard
from onnxptq.pipeline.selection import select
from onnxptq.pipeline.sensitivity import Sensitivity, sensitivities
from onnxptq.pipeline.stages import Prepared, Solved
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.report.data import Verdict
from onnxptq.report.introduction import introduce, introduction
from onnxptq.report.stopwatch import Stopwatch
from onnxptq.result import Result
from onnxptq.structure import Structure

Data = str | Path | Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Calibration:
    """The result of ``calibrate``, and its samples."""

    samples: Samples
    solved: Solved
    verdicts: tuple[Verdict, ...]
    """Scores of the candidates that the selection compared."""
    context: RunContext
    preprocess: str | None
    """How images became inputs, where images were read."""
    warnings: tuple[str, ...]


class Quantizer:
    """From a model to a quantized one: ``calibrate``, then ``quantize``.

    ``recipe`` is a name, a TOML file or a Recipe; ``bits`` the widths of weights and activations (``w8a8``, ``w4a32``)
    or the average width (``auto:4.5``); ``max_size`` (bytes), ``max_loss`` (points of mask agreement) and ``min_sqnr``
    (dB) ask for the smallest weights that keep them, none wider than ``bits``; ``target`` the runtime that the file is
    for (``onnxruntime``, ``tensorrt`` ...), which decides the ``format`` (``native``, ``portable``, ``qdq``);
    ``settings`` are those of ``--set``; ``plan`` holds earlier decisions that replace the recipe's.
    """

    def __init__(
        self,
        model: str | Path | bytes | onnx.ModelProto,
        *,
        recipe: str | Path | Recipe = "auto",
        bits: str = "w8a8",
        format: str | None = None,
        target: str | None = None,
        constants: str = "fp16",
        strict: bool = False,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        mask: str | None = None,
        roles: Mapping[str, str] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        settings: Mapping[str, str] | None = None,
        plan: Plan | None = None,
        max_size: int | None = None,
        max_loss: float | None = None,
        min_sqnr: float | None = None,
        seed: int = 0,
        draw: How = "random",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config = RunConfig.of(
            recipe,
            bits,
            format=format,
            target=target,
            constants=constants,
            settings=settings,
            strict=strict,
            exclude=tuple(exclude),
            include=tuple(include),
            mask=mask,
            roles=dict(roles or {}),
            shapes=dict(shapes or {}),
            plan=plan,
            max_size=max_size,
            max_loss=max_loss,
            min_sqnr=min_sqnr,
            seed=seed,
            draw=draw,
            threads=threads,
        )
        self._progress: Progress = progress or Silent()
        self.watch = Stopwatch(self._progress.stage)
        self.calibration: Calibration | None = None
        with self.watch.stage("load"):
            self.prepared: Prepared = stages.prepare(model, self.config)
        self.config, self._notes = adopted(self.config, self.prepared)
        check_size(self.prepared, self.config)

    @property
    def model(self) -> Model:
        """The canonical model; once calibrated, with its folds and the weights to be coded."""
        return self.calibration.solved.model if self.calibration else self.prepared.model

    @property
    def structure(self) -> Structure:
        """The structure of ``model``."""
        return self.calibration.solved.structure if self.calibration else self.prepared.structure

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes made by the passes."""
        return self.calibration.solved.folded.changes if self.calibration else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings so far."""
        if self.calibration:
            return (*self.calibration.solved.warnings, *self.calibration.warnings)
        return (*self._notes, *stages.planned(self.prepared.name, self.prepared.structure, self.config)[1])

    def plan(self) -> Plan:
        """The choice for each site; with parameters once calibrated."""
        if self.calibration:
            return self.calibration.solved.plan
        return stages.planned(self.prepared.name, self.prepared.structure, self.config)[0]

    def calibrate(
        self,
        samples: Data = "synthetic",
        *,
        limit: int | None = None,
        preprocess: str = "imagenet",
        memory_limit: int | None = None,
        folder: Path | None = None,
        resume: bool = False,
    ) -> Plan:
        """Fold the model, find every parameter, and keep the best where the recipe compares several candidates; then
        relieve convolutions with large coding errors, where the recipe has a guard.

        ``limit`` samples calibrate; a few more, if there are more, are reserved for the selection and for the report.
        Results are kept in ``folder``, from which ``resume`` continues.
        """
        self.config = config = replace(self.config, memory_limit=memory_limit, widths={})
        synthetic = isinstance(samples, str) and samples == "synthetic"
        limit = DEFAULT_COUNT if synthetic and limit is None else limit
        selecting = bool(config.recipe.selection) or config.judged
        source = self._source(samples, limit, extra(limit, selecting=selecting), preprocess)
        split = split_samples(source, limit, selecting=selecting)
        del self.watch.stages[1:]
        self._progress.expect(config.stages)
        context = RunContext(self._progress, self.watch, folder, resume)
        notes: tuple[str, ...] = ()
        if config.mixed:
            solved, config, notes = budgeted(self.prepared, split, config, context)
            self.config = config
        else:
            solved = candidates.by_recipe(self.prepared, split, config, context)
        solved, verdicts = select(self.prepared, solved, split, config, context)
        solved, relieved = guard(self.prepared, solved, split, config, context)
        warned = "calibrated on synthetic samples; real ones are better: give a folder of them"
        warnings = (*self._notes, *((warned,) if synthetic else ()), *notes, *relieved)
        self.calibration = Calibration(split, solved, verdicts, context, source.preprocess, warnings)
        return solved.plan

    def sensitivities(
        self,
        samples: Data = "synthetic",
        *,
        limit: int | None = None,
        preprocess: str = "imagenet",
        memory_limit: int | None = None,
    ) -> dict[str, Sensitivity]:
        """How much each site costs the outputs at each width, by site key; nothing is quantized."""
        config = replace(self.config, memory_limit=memory_limit)
        synthetic = isinstance(samples, str) and samples == "synthetic"
        limit = DEFAULT_COUNT if synthetic and limit is None else limit
        source = self._source(samples, limit, 0, preprocess)
        split, context = Samples(source, source, source), RunContext(self._progress, self.watch)
        return sensitivities(stages.fold(self.prepared, split, config, context), split, config, context)

    def _source(self, samples: Data, limit: int | None, more: int, preprocess: str) -> Source:
        return open_source(
            samples,
            inputs=input_specs(self.prepared.model, self.prepared.structure.masks),
            samples=limit if limit is None or limit < 1 else limit + more,
            preprocess=preprocess,
            seed=self.config.seed,
            draw=self.config.draw,
            shapes=dict(self.config.shapes),
        )

    def quantize(self) -> Result:
        """Lower, verify, measure."""
        held = self.calibration
        if held is None:
            raise InputError(
                "quantize: nothing is calibrated yet; call calibrate(samples) first, or calibrate() for synthetic ones"
            )
        context = held.context
        with context.watch.stage("lower"):
            lowered = stages.lower(held.solved, self.config)
        with context.watch.stage("verify"):
            outputs = stages.verify(self.prepared, lowered, held.samples, self.config)
        report = reporting.report(
            self.prepared,
            held.solved,
            lowered,
            outputs,
            held.samples,
            self.config,
            context,
            selection=held.verdicts,
            settings={"preprocess": held.preprocess} if held.preprocess is not None else {},
            warnings=(*held.warnings, *broken(self.config, lowered.proto.ByteSize(), outputs)),
        )
        target = self.config.target
        introduce(lowered.proto, introduction(report, target.how_to_load if target is not None else None))
        sizes = replace(report.sizes, after=lowered.proto.ByteSize())
        return Result(lowered.proto, held.solved.plan, replace(report, sizes=sizes))
