"""Attempt: one recipe tried on a model - folds, then the parameters of every site - up to where it can be lowered."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxptq import learn
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.engine import Engine
from onnxptq.calibration.gradients import Gradients
from onnxptq.calibration.progress import Progress
from onnxptq.calibration.sources.source import Source
from onnxptq.calibrators import calibrators
from onnxptq.calibrators.base import searches
from onnxptq.calibrators.dual_stream import NAME as DUAL_STREAM
from onnxptq.calibrators.weights import search_weight
from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.graph.size import digest
from onnxptq.lower import native
from onnxptq.passes import passes
from onnxptq.passes.base import Change, Discover, run_passes
from onnxptq.pipeline import asymmetric as dual_stream_weights
from onnxptq.plan import Choice, Plan
from onnxptq.recipe import Bits, Recipe
from onnxptq.report.data import Stopwatch
from onnxptq.running.runner import run
from onnxptq.structure import Role, Structure
from onnxptq.structure.outputs import likelihood
from onnxptq.version import __version__

PROOFS = 1
"""Samples on which passes are proven."""


@dataclass(frozen=True)
class Task:
    """What does not depend on the recipe."""

    name: str
    original: Model
    structure: Structure
    """What was found in ``original``."""
    bits: Bits
    discover: Discover
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    seed: int
    threads: int | None
    progress: Progress
    memory_limit: int | None = None


class Attempt:
    """A recipe on its way: ``search`` folds the model and fills the plan."""

    def __init__(
        self, task: Task, recipe: Recipe, *, given: Plan | None = None, watch: Stopwatch | None = None
    ) -> None:
        self.task, self.recipe, self.watch = task, recipe, watch or Stopwatch()
        self.model = self.folded = task.original
        """What is lowered, and what calibration looks at: both with the folds, the first with weights that a dual
        stream rounded."""
        self.structure = self._folded_structure = task.structure
        self.changes: tuple[Change, ...] = ()
        self.drift: Mapping[str, float] = {}
        self.warnings: list[str] = []
        self._given, self._refitted = given, frozenset[str]()
        self.plan = self._wanted = given or self._planned()

    def search(
        self,
        source: Source,
        proofs: Source,
        *,
        base: Attempt | None = None,
        folder: Path | None = None,
        resume: bool = False,
    ) -> None:
        """Fold, then find every parameter on ``source``. What is found is kept in ``folder``, from which ``resume``
        goes on.

        What another attempt, ``base``, has found on the same samples - its folds, and codes for weights found together
        with them - is not sought again.
        """
        task = self.task
        checkpoint = Checkpoint(folder, self._identity(source), resume=resume) if folder is not None else None
        engine = self.engine(source, checkpoint)
        with self.watch.stage("passes"):
            shared = base if base is not None and base._refitted and self._folds_like(base) else None
            if shared is not None:
                self.model = self.folded = shared.folded
                self.structure = self._folded_structure = shared._folded_structure
                self.changes, self.drift = shared.changes, shared.drift
            else:
                self._fold(engine, proofs)
        plan = self._wanted = self._given or self._planned()
        if shared is not None:
            activations = [key for key in plan if plan.sites[key].role is not Role.WEIGHT]
            plan = plan.replace({key: shared.plan[key] for key in activations if shared._wanted.get(key) == plan[key]})
        todo, gradients = self._weighted({key: choice for key, choice in plan.items() if choice.params is None})
        with self.watch.stage("calibration"):
            engine.model, engine.gradients = self.folded, gradients
            together = engine.drive(searches(todo, plan.sites), stage="calibration")
        found: dict[str, Choice] = {key: choice for choices in together.values() for key, choice in choices.items()}
        plan = plan.replace(found)
        with self.watch.stage("weights"):
            refitted = dual_stream_weights.find(
                self.folded,
                self.structure,
                plan,
                source,
                limit=task.memory_limit,
                threads=task.threads,
                checkpoint=checkpoint,
                progress=task.progress,
            )
            alone = {
                k: c
                for k, c in todo.items()
                if plan.sites[k].role is Role.WEIGHT and k not in refitted and k not in found
            }
            plan = plan.replace(self._weights(alone, plan))
        if refitted:
            self.model = dual_stream_weights.apply(self.folded, self.structure, refitted)
            self.structure = task.discover(self.model)
            plan = plan.replace({key: one.choice for key, one in refitted.items()})
        self._refitted, self.plan = frozenset(refitted), plan

    def _folds_like(self, other: Attempt) -> bool:
        return (self.recipe.passes, self.recipe.pass_options) == (other.recipe.passes, other.recipe.pass_options)

    def rounded(self) -> Attempt | None:
        """The same with weights rounded one by one, where they were found together."""
        if not self._refitted:
            return None
        other = copy(self)
        other.model, other.structure, other._refitted = self.folded, self._folded_structure, frozenset()
        other.plan = self.plan.replace(self._weights({key: self.plan[key] for key in self._refitted}, self.plan))
        return other

    def engine(self, source: Source, checkpoint: Checkpoint | None = None) -> Engine:
        """Walks over samples with the folded model."""
        return Engine(
            self.folded,
            source,
            masks=self.structure.masks,
            memory_limit=self.task.memory_limit,
            threads=self.task.threads,
            checkpoint=checkpoint,
            progress=self.task.progress,
        )

    def proto(self) -> onnx.ModelProto:
        """The quantized model."""
        return native.lower(self.model, self.structure, self.plan).proto

    def _planned(self) -> Plan:
        task = self.task
        plan, warnings = self.recipe.plan(self.structure, task.bits, exclude=task.exclude, include=task.include)
        self.warnings += [warning for warning in warnings if warning not in self.warnings]
        if not plan:
            raise InputError(
                f"{task.name}: no site to quantize: no Linear, Conv or attention in scope; `onnxptq inspect` shows "
                f"what was found"
            )
        return plan

    def _identity(self, source: Source) -> dict[str, str]:
        """What a checkpoint must have been made with."""
        return {
            "version": __version__,
            "model": digest(self.task.original),
            "recipe": repr((self.recipe.name, self.recipe.passes, self.recipe.pass_options)),
            "bits": str(self.task.bits),
            "samples": source.digest(),
            "plan": self.plan.to_json(),
            "seed": str(self.task.seed),
        }

    def _fold(self, engine: Engine, proofs: Source) -> None:
        """Run the recipe's passes on a copy of the model; its structure may be another one afterwards."""
        if not self.recipe.passes:
            return
        task, model = self.task, self.task.original.copy()
        samples = [sample for sample, _ in zip(proofs, range(PROOFS), strict=False)]
        passed = run_passes(
            model,
            {name: self.pass_options(name) for name in self.recipe.passes},
            discover=task.discover,
            fill=lambda current, requests, stage: engine.fill(requests, stage=stage, model=current),
            outputs=lambda current: list(
                run(current.to_proto, samples, name=task.name, threads=task.threads, error=InputError)
            ),
        )
        self.model = self.folded = model
        self.structure = self._folded_structure = passed.structure
        self.changes, self.drift = passed.changes, passed.drift

    def pass_options(self, name: str) -> dict[str, Any]:
        """What the recipe says of a pass; the width it prepares for is that of activations, if it has one."""
        width = {"bits": min(self.task.bits.activations, 8)} if "bits" in passes()[name].options else {}
        return {**width, **self.recipe.pass_options.get(name, {})}

    def _weighted(self, todo: Mapping[str, Choice]) -> tuple[dict[str, Choice], Gradients | None]:
        """The choices to be searched, and the gradients by which some of them weigh errors; without torch these weigh
        all alike."""
        known = calibrators()
        wanted = [
            key
            for key, choice in todo.items()
            if choice.calibrator in known and known[choice.calibrator].weighs(choice)
        ]
        if not wanted:
            return dict(todo), None
        if not learn.available():
            self.warnings.append(
                "torch is not installed (extra [learn]): errors weigh the same everywhere, as with metric=mse"
            )
            return {
                k: replace(c, options={**c.options, "metric": "mse"}) if k in wanted else c for k, c in todo.items()
            }, None
        from onnxptq.learn.fisher import Fisher

        return dict(todo), Fisher(likelihood=likelihood(self.model, self.structure), seed=self.task.seed, threads=1)

    def _weights(self, todo: Mapping[str, Choice], plan: Plan) -> dict[str, Choice]:
        """Weights searched one by one; what was left to the dual stream is rounded as ``omse`` does it."""
        if not todo:
            return {}
        found: dict[str, Choice] = {}
        tensors = self.folded.graph.tensors()
        with self.task.progress.task("weights", len(todo)) as step:
            for key, choice in todo.items():
                site = plan.sites[key]
                if choice.calibrator == DUAL_STREAM:
                    choice = replace(choice, calibrator="omse", options={})
                params = search_weight(
                    np.asarray(tensors[site.tensor].values, np.float32),
                    bits=choice.bits,
                    axis=site.axis if choice.granularity == "channel" else None,
                    symmetric=choice.symmetric,
                    method=choice.calibrator,
                    threads=self.task.threads,
                )
                found[key] = replace(choice, params=params)
                step()
        return found
