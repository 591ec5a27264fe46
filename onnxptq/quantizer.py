"""Quantizer: the whole pipeline in reading order. Each step can also be called alone and printed in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.progress import Progress, Silent, Titled
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.sources.split import split_samples
from onnxptq.calibrators.base import searches
from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.graph.size import source_size
from onnxptq.lower import Constants, Format, native, portable, qdq
from onnxptq.lower.writer import Lowered
from onnxptq.passes.base import Change
from onnxptq.pipeline import reporting as account
from onnxptq.pipeline.candidate import Attempt, Task
from onnxptq.pipeline.measuring import measure_sites
from onnxptq.pipeline.selection import judge
from onnxptq.plan import Plan
from onnxptq.recipe import ROUNDED, Bits, Recipe
from onnxptq.report.data import Calibration, Report, Sizes, Stopwatch, Verdict
from onnxptq.result import Result
from onnxptq.running import compare
from onnxptq.structure import Structure, discover

Samples = str | Path | Iterable[Mapping[str, NDArray[Any]]]
LOWER: dict[Format, Callable[..., Lowered]] = {"native": native.lower, "portable": portable.lower, "qdq": qdq.lower}


@dataclass(frozen=True)
class Inspection:
    """What was found in a model."""

    model: Model
    structure: Structure


class Quantizer:
    """From a model to a quantized one: ``calibrate``, then ``quantize``."""

    def __init__(
        self,
        model: str | Path | bytes | onnx.ModelProto,
        *,
        recipe: str | Path | Recipe = "auto",
        bits: str = "w8a8",
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        mask: str | None = None,
        roles: Mapping[str, str] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        settings: Mapping[str, str] | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.recipe = Recipe.load(recipe, settings)
        self.name = str(model) if isinstance(model, (str, Path)) else "model"
        self.settings, self.seed, self.threads, self._shapes = dict(settings or {}), seed, threads, dict(shapes or {})
        self.watch = Stopwatch()
        parsed, overrides = Bits.parse(bits), dict(roles or {})
        with self.watch.stage("load"):
            self.original = canonicalise(load(model, shapes=self._shapes))
            self.size = source_size(model)
            self._inspection = Inspection(self.original, discover(self.original, mask=mask, roles=overrides))
        self._task = Task(
            self.name,
            self.original,
            self._inspection.structure,
            parsed,
            discover=lambda current: discover(current, mask=mask, roles=overrides),
            exclude=tuple(exclude),
            include=tuple(include),
            seed=seed,
            threads=threads,
            progress=progress or Silent(),
        )
        self._given: Plan | None = None
        self._attempt: Attempt | None = None
        self._source: Source | None = None
        self._warnings: list[str] = []
        self.verdicts: list[Verdict] = []
        """How the ways did that were tried, where there was a choice."""

    @property
    def model(self) -> Model:
        """What is lowered: the model with its folds."""
        return self._attempt.model if self._attempt else self.original

    @property
    def structure(self) -> Structure:
        """What was found in ``model``."""
        return self._attempt.structure if self._attempt else self._inspection.structure

    @property
    def changes(self) -> tuple[Change, ...]:
        """What the passes did."""
        return self._attempt.changes if self._attempt else ()

    @property
    def drift(self) -> Mapping[str, float]:
        """How far the passes moved each output, dB."""
        return self._attempt.drift if self._attempt else {}

    @property
    def warnings(self) -> list[str]:
        """Reasons to worry."""
        return [*(self._attempt.warnings if self._attempt else ()), *self._warnings]

    def inspect(self) -> Inspection:
        """The structure of the model as loaded."""
        return self._inspection

    def plan(self) -> Plan:
        """What will be done to each site; with parameters once ``calibrate`` has run."""
        return self._tried().plan

    def _tried(self) -> Attempt:
        """The attempt that is kept, or the recipe's, not begun yet."""
        self._attempt = self._attempt or Attempt(self._task, self.recipe, given=self._given)
        return self._attempt

    def use(self, plan: Plan) -> None:
        """Take a plan made before instead of the recipe's; its sites must be sites of this model."""
        known = {site.key for site in self.structure.sites}
        strange = [key for key in plan if key not in known]
        if strange:
            raise InputError(
                f"plan: site {strange[0]!r} is not in this model (and {len(strange) - 1} more); make the plan anew"
            )
        self._given, self._attempt = plan, None

    def calibrate(
        self,
        samples: Samples = "synthetic",
        *,
        limit: int | None = None,
        preprocess: str = "imagenet",
        memory_limit: int | None = None,
        folder: Path | None = None,
        resume: bool = False,
    ) -> Plan:
        """Fold, then find every parameter; where the recipe has a gate, keep what agrees best with the original.

        What is found is kept in ``folder``, from which ``resume`` goes on.
        """
        whole = open_source(
            samples,
            inputs=input_specs(self.original, self._inspection.structure.masks),
            samples=limit,
            preprocess=preprocess,
            seed=self.seed,
            shapes=self._shapes,
        )
        synthetic = isinstance(samples, str) and samples == "synthetic"
        self._warnings = (
            ["calibrated on synthetic samples; real ones are better: give a folder of them"] if synthetic else []
        )
        self._source, self._held = split_samples(whole)
        self._preprocess = preprocess
        self._task = replace(self._task, memory_limit=memory_limit)
        attempt = Attempt(self._task, self.recipe, given=self._given, watch=self.watch)
        attempt.search(self._source, self._held, folder=folder, resume=resume)
        self._attempt = self._judged(attempt, whole, folder, resume)
        return self._attempt.plan

    def _judged(self, attempt: Attempt, whole: Source, folder: Path | None, resume: bool) -> Attempt:
        """The best of an attempt and what its recipe is measured against."""
        assert self._source is not None
        self.verdicts, ways = [], {self.recipe.name: attempt}
        for entry in self.recipe.gate:
            if entry == ROUNDED:
                rounded = attempt.rounded()
                if rounded is not None:
                    ways[f"{self.recipe.name}, weights rounded one by one"] = rounded
            elif self._given is None:
                way = self.recipe.name + entry if entry.startswith("+") else entry
                with self.watch.stage(f"{way}, to compare"):
                    rival = Attempt(
                        replace(self._task, progress=Titled(way, self._task.progress)), self.recipe.rival(entry)
                    )
                    rival.search(
                        self._source, self._held, base=attempt, folder=folder / way if folder else None, resume=resume
                    )
                ways[way] = rival
        if len(ways) == 1:
            return attempt
        with self.watch.stage("gate"):
            self.verdicts = judge(
                self.original.to_proto,
                {way: one.proto for way, one in ways.items()},
                whole,
                cut=unpadded(self.original, self._inspection.structure.masks),
                threads=self.threads,
                progress=self._task.progress,
            )
        return next(ways[verdict.way] for verdict in self.verdicts if verdict.kept)

    def quantize(self, *, format: Format = "native", constants: Constants = "fp16", strict: bool = False) -> Result:
        """Lower, verify, measure. Calibrates on synthetic samples if nobody has calibrated."""
        if self._source is None:
            self.calibrate()
        assert self._source is not None
        attempt = self._tried()
        plan, notes = self._standard(attempt) if format == "qdq" and not strict else (attempt.plan, ())
        with self.watch.stage("lower"):
            lowered = LOWER[format](attempt.model, attempt.structure, plan, constants=constants)
        with self.watch.stage("verify"):
            outputs = compare.models(
                self.original.to_proto,
                lowered.proto,
                self._held,
                artifact=True,
                names=(self.name, f"quantized {Path(self.name).name}"),
                cut=unpadded(self.original, self._inspection.structure.masks),
                threads=self.threads,
            )
        with self.watch.stage("measure"):
            measured = measure_sites(attempt.folded, plan, attempt.engine(self._held), attempt.model)
            layers = account.layers(attempt, lowered.proto, next(iter(self._held)))
        report = Report(
            model=self.name,
            recipe=self.recipe.name,
            bits=str(self._task.bits),
            format=format,
            sizes=Sizes(self.size, lowered.proto.ByteSize(), account.weight_bytes(attempt), lowered.weight_bytes),
            calibration=Calibration(
                self._source.name, len(self._source), 0 if self._held is self._source else len(self._held)
            ),
            sites=account.sites(plan, measured),
            outputs=dict(outputs),
            settings={
                "preprocess": self._preprocess,
                "seed": str(self.seed),
                "constants": constants,
                **{f"set {key}": value for key, value in self.settings.items()},
            },
            structure=account.counts(attempt.structure),
            stages=tuple(self.watch.stages),
            layers=layers,
            changes=attempt.changes,
            drift=dict(attempt.drift),
            gate=tuple(self.verdicts),
            warnings=tuple(dict.fromkeys([*self.warnings, *notes, *lowered.notes])),
            notes=tuple(self.original.notes),
            environment=account.environment(),
        )
        return Result(lowered.proto, plan, report)

    def _standard(self, attempt: Attempt) -> tuple[Plan, tuple[str, ...]]:
        """The plan with static uniform codes, as the recipe has them for format qdq, where standard ops cannot say
        others; and a note."""
        assert self._source is not None
        plan = attempt.plan
        beyond = qdq.unsaid(plan)
        if not beyond:
            return plan, ()
        recipe = Recipe.load(attempt.recipe, attempt.recipe.suited("qdq"))
        wanted = {key: recipe.choice(plan.sites[key], plan[key].bits) for key in beyond}
        static = {
            key: one
            if (one.scheme, one.granularity) == ("uniform", "tensor")
            else replace(one, scheme="uniform", calibrator="omse", granularity="tensor", options={})
            for key, one in wanted.items()
        }
        with self.watch.stage("calibration of static stand-ins"):
            found = attempt.engine(self._source).drive(searches(static, plan.sites), stage="static stand-ins")
        note = f"format qdq: {qdq.words(plan, beyond)}; static uniform codes stand in"
        return plan.replace({key: choice for choices in found.values() for key, choice in choices.items()}), (note,)
