"""Quantizer: the API of the pipeline. ``pipeline/stages.py`` defines the stages of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxptq.arguments import check, texts
from onnxptq.calibration.progress import Progress, Silent, progress_on
from onnxptq.calibration.sources.forms import Transform
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.sources.split import Samples, extra, split_samples
from onnxptq.calibration.sources.synthetic import limited
from onnxptq.datasets.draw import How
from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.passes.base import Change
from onnxptq.pipeline import candidates, stages
from onnxptq.pipeline.budget import budgeted, check_size
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.finishing import Calibration, finish
from onnxptq.pipeline.given import adopted
from onnxptq.pipeline.guard import guard
from onnxptq.pipeline.selection import select
from onnxptq.pipeline.sensitivity import Sensitivity, sensitivities
from onnxptq.pipeline.stages import Prepared
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.report.stopwatch import Stopwatch
from onnxptq.result import Result
from onnxptq.structure import Structure
from onnxptq.workers import HERE, Workers

Data = str | Path | NDArray[Any] | Mapping[str, NDArray[Any]] | Iterable[Any]


class Quantizer:
    """From a model to a quantized one: ``calibrate``, then ``quantize``.

    Arguments:
        model: A path, the bytes of a file, or an ``onnx.ModelProto``.
        recipe: A name (``Recipe.names()`` lists them), a TOML file, or a ``Recipe``.
        bits: Widths of weights and activations, 2 to 8, or 32 for float: ``"w4a8"``; or ``"auto:4.5"``, an average.
        format: ``"native"``, ``"portable"`` or ``"qdq"``. None: that of the target or the plan, else ``"native"``.
        target: The runtime that the file is for, which decides the format: ``"onnxruntime"``, ``"tensorrt"`` ...
        constants: How constants that no quantizer claims are stored: ``"fp16"`` or ``"fp32"``.
        strict: Fail if the format cannot express the recipe, instead of replacing schemes with a note.
        exclude: Regular expressions; matching sites stay in float: ``["neck"]``. ``inspect`` lists the sites.
        include: The same, for sites to quantize that are out of scope by default.
        mask: The input that marks padding, or ``"none"``. None: found by structure.
        roles: Part (``visual``, ``text``, ``fusion``, ``decoder``) -> regular expression of its nodes.
        shapes: Input -> shape, for inputs with dynamic sizes: ``{"image": (1, 3, 256, 256)}``.
        settings: Settings of the recipe, as ``--set`` takes them: ``{"softmax.scheme": "uniform"}``.
        plan: Earlier decisions, which replace recipe, passes and bits: ``Plan.load("plan.json")``.
        max_size: Most bytes of the file; the best weights that fit, none wider than ``bits``.
        max_loss: Most points of mask agreement to lose; the smallest weights that keep this.
        min_sqnr: Least signal to error of the outputs, dB; the smallest weights that keep this.
        seed: Of every random choice.
        draw: How files of a folder and samples of a data set are chosen: ``"random"``, or the ``"first"`` ones.
        threads: Of onnxruntime. None: all cores.
        workers: What shares the samples: this process, or what ``onnxptq.workers.opened(2)`` gives.
        progress: True for progress on stderr, as on the command line; or an object with its methods.

    Example:
        >>> q = Quantizer(model, bits="w6a6", exclude=["neck"], settings={"selection": "off"}, threads=1)
        >>> plan = q.calibrate(samples, limit=4)
        >>> result = q.quantize()
        >>> path = result.save("small.onnx")
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
        settings: Mapping[str, Any] | None = None,
        plan: Plan | None = None,
        max_size: int | None = None,
        max_loss: float | None = None,
        min_sqnr: float | None = None,
        seed: int = 0,
        draw: How = "random",
        threads: int | None = None,
        progress: Progress | bool | None = None,
        workers: Workers = HERE,
    ) -> None:
        check(**{name: value for name, value in locals().items() if name not in ("self", "progress", "workers")})
        self.config = RunConfig.of(
            recipe,
            bits,
            format=format,
            target=target,
            constants=constants,
            settings=texts(settings),
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
        self._progress, self._workers = progress_on() if progress is True else progress or Silent(), workers
        self.watch = Stopwatch(self._progress.stage)
        self.calibration: Calibration | None = None
        with self.watch.stage("load"):
            self.prepared: Prepared = stages.prepare(model, self.config)
        self.config, self._notes = adopted(self.config, self.prepared)
        check_size(self.prepared, self.config)

    def __repr__(self) -> str:
        state = "calibrated" if self.calibration else "not calibrated yet"
        return f"<Quantizer: {self.prepared.name}, {self.config.bits} by recipe {self.config.recipe.name}, {state}>"

    def _repr_html_(self) -> str:
        return self.structure._repr_html_()

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
        transform: Transform | None = None,
    ) -> Plan:
        """Fold the model, find every parameter, keep the best of the recipe's candidates, and relieve convolutions.

        Arguments:
            samples: A folder or file, a data set (``"zoo:sam-mini-encoder"``), ``"synthetic"``; a list, generator or
                DataLoader of mappings, arrays or tuples of arrays; or an array, or a mapping of them, of all samples.
            limit: Samples that calibrate; a few more, if there are more, are kept for the selection and the report.
            preprocess: How images become inputs: ``"imagenet"``, ``"sam"``, ``"unit"`` or ``"raw"``.
            memory_limit: Most bytes of tensors and statistics held at a time.
            folder: Keeps results, from which ``resume`` continues.
            resume: Go on with a run that was stopped.
            transform: A function that makes a sample of each item: ``lambda item: item[0]``.
        """
        check(limit=limit, preprocess=preprocess, memory_limit=memory_limit)
        self.config = config = replace(self.config, memory_limit=memory_limit, widths={})
        limit, synthetic = limited(samples, limit)
        selecting = bool(config.recipe.selection) or config.judged
        source = self._source(samples, limit, extra(limit, selecting=selecting), preprocess, transform)
        split = split_samples(source, limit, selecting=selecting)
        del self.watch.stages[1:]
        self._progress.expect(config.stages)
        context = RunContext(self._progress, self.watch, folder, resume, workers=self._workers)
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
        limit, _ = limited(samples, limit)
        source = self._source(samples, limit, 0, preprocess)
        split, context = Samples(source, source, source), RunContext(self._progress, self.watch, workers=self._workers)
        return sensitivities(stages.fold(self.prepared, split, config, context), split, config, context)

    def _source(
        self, samples: Data, limit: int | None, more: int, preprocess: str, transform: Transform | None = None
    ) -> Source:
        return open_source(
            samples,
            inputs=input_specs(self.prepared.model, self.prepared.structure.masks),
            samples=limit if limit is None or limit < 1 else limit + more,
            preprocess=preprocess,
            seed=self.config.seed,
            draw=self.config.draw,
            shapes=dict(self.config.shapes),
            transform=transform,
        )

    def quantize(self) -> Result:
        """Lower, verify, measure."""
        held = self.calibration
        if held is None:
            raise InputError("quantize: nothing is calibrated yet; call calibrate(samples) first, or calibrate()")
        return finish(self.prepared, held, self.config)
