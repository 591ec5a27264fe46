"""Quantizer: the whole pipeline in reading order. Each step can also be called alone and printed in between."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq import __version__, compare, dual_stream_weights, learn
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.engine import Engine
from onnxptq.calibration.gradients import Gradients
from onnxptq.calibration.inputs import input_specs
from onnxptq.calibration.progress import Progress, Silent
from onnxptq.calibration.sources import Source, open_source
from onnxptq.calibration.stretch import shared_out
from onnxptq.calibration.tokens import unpadded
from onnxptq.calibrators import calibrators
from onnxptq.calibrators.base import searches
from onnxptq.calibrators.dual_stream import NAME as DUAL_STREAM
from onnxptq.calibrators.weights import search_weight
from onnxptq.dual_stream_weights import Found
from onnxptq.errors import InputError
from onnxptq.gate import judge
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.graph.size import digest, source_size
from onnxptq.lower import Constants, Format, native, portable, qdq
from onnxptq.lower.writer import Lowered
from onnxptq.measure import Measured, measure_sites
from onnxptq.passes import passes
from onnxptq.passes.base import Change, run_passes
from onnxptq.plan import Choice, Plan
from onnxptq.recipe import Bits, Recipe
from onnxptq.report.data import Calibration, Layer, Report, SiteReport, Sizes, Stopwatch
from onnxptq.result import Result
from onnxptq.runtime import library_path
from onnxptq.sites import Role, Site, Structure, discover
from onnxptq.sites.outputs import likelihood
from onnxptq.verify import run

Samples = str | Path | Iterable[Mapping[str, NDArray[Any]]]
PROOFS = 1
"""Samples on which passes are proven."""
LOWER: dict[Format, Callable[..., Lowered]] = {"native": native.lower, "portable": portable.lower, "qdq": qdq.lower}


@dataclass(frozen=True)
class Inspection:
    """What was found in a model."""

    model: Model
    structure: Structure
    notes: tuple[str, ...] = ()


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
        self.bits = Bits.parse(bits)
        self.recipe = Recipe.load(recipe, settings)
        self.name = str(model) if isinstance(model, (str, Path)) else "model"
        self.settings = dict(settings or {})
        self.seed, self.threads, self.progress = seed, threads, progress or Silent()
        self.watch = Stopwatch()
        self._mask, self._roles = mask, dict(roles or {})
        self._scope = {"exclude": tuple(exclude), "include": tuple(include)}
        self._shapes = dict(shapes or {})
        with self.watch.stage("load"):
            self.original = canonicalise(load(model, shapes=self._shapes))
            self.size = source_size(model)
            self.structure = self._discover(self.original)
        self.model = self.folded = self.original
        """What is lowered, and what calibration looks at: both with the folds, the first with weights that a dual stream rounded."""
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.changes: tuple[Change, ...] = ()
        self.drift: Mapping[str, float] = {}
        self._plan: Plan | None = None
        self._given = False
        self._source: Source | None = None
        self._memory_limit: int | None = None

    def inspect(self) -> Inspection:
        """The structure of the model as loaded."""
        return Inspection(self.original, self._discover(self.original))

    def plan(self) -> Plan:
        """What will be done to each site; with parameters once ``calibrate`` has run."""
        if self._plan is None:
            self._plan = self._planned()
        return self._plan

    def _planned(self) -> Plan:
        plan, warnings = self.recipe.plan(self.structure, self.bits, **self._scope)
        self.warnings += [w for w in warnings if w not in self.warnings]
        if not plan:
            raise InputError(
                f"{self.name}: no site to quantize: no Linear, Conv or attention in scope; `onnxptq inspect` shows what was found"
            )
        return plan

    def use(self, plan: Plan) -> None:
        """Take a plan made before instead of the recipe's; its sites must be sites of this model."""
        known = {site.key for site in self.structure.sites}
        strange = [key for key in plan if key not in known]
        if strange:
            raise InputError(f"plan: site {strange[0]!r} is not in this model (and {len(strange) - 1} more); make the plan anew")
        self._plan, self._given = plan, True

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
        """Fold, then find every parameter. What is found is kept in ``folder``, from which ``resume`` goes on."""
        whole = open_source(
            samples,
            inputs=input_specs(self.original, self.structure.masks),
            samples=limit,
            preprocess=preprocess,
            seed=self.seed,
            shapes=self._shapes,
        )
        if isinstance(samples, str) and samples == "synthetic":
            self.warnings.append("calibrated on synthetic samples; real ones are better: give a folder of them")
        self._source, self._held = shared_out(whole)
        self._memory_limit, self._preprocess = memory_limit, preprocess
        given = self.plan()
        self.model = self.folded = self.original
        checkpoint = Checkpoint(folder, self._identity(whole), resume=resume) if folder is not None else None
        engine = self._engine(self._source, checkpoint)
        with self.watch.stage("passes"):
            self._fold(engine)
        plan = given if self._given else self._planned()
        gated = dual_stream_weights.gated(plan)
        todo, gradients = self._weighted({key: choice for key, choice in plan.items() if choice.params is None})
        with self.watch.stage("calibration"):
            engine.model, engine.gradients = self.folded, gradients
            together = engine.drive(searches(todo, plan.sites), stage="calibration")
        found: dict[str, Choice] = {key: choice for choices in together.values() for key, choice in choices.items()}
        plan = plan.replace(found)
        with self.watch.stage("weights"):
            refitted = dual_stream_weights.find(
                self.model,
                self.structure,
                plan,
                self._source,
                limit=memory_limit,
                threads=self.threads,
                checkpoint=checkpoint,
                progress=self.progress,
            )
            alone = {k: c for k, c in todo.items() if plan.sites[k].role is Role.WEIGHT and k not in refitted and k not in found}
            plan = plan.replace(self._weights(alone, plan))
        if refitted:
            with self.watch.stage("gate"):
                plan = self._judge(plan, refitted, whole if gated else None)
        self._plan = plan
        return self._plan

    def quantize(self, *, format: Format = "native", constants: Constants = "fp16", strict: bool = False) -> Result:
        """Lower, verify, measure. Calibrates on synthetic samples if nobody has calibrated."""
        if self._source is None:
            self.calibrate()
        plan = self._with_fallbacks(self.plan()) if format == "qdq" and not strict else self.plan()
        with self.watch.stage("lower"):
            lowered = LOWER[format](self.model, self.structure, plan, constants=constants, strict=strict)
        name = f"quantized {Path(self.name).name}"
        with self.watch.stage("verify"):
            outputs = compare.models(
                self.original.to_proto(),
                lowered.proto,
                self._held,
                artifact=True,
                names=(self.name, name),
                cut=unpadded(self.original, self.structure.masks),
                threads=self.threads,
            )
        with self.watch.stage("measure"):
            measured = measure_sites(self.folded, plan, self._engine(self._held, None), self.model)
            layers = self._layers(lowered.proto)
        report = self._report(plan, format, constants, lowered, outputs, measured, layers)
        return Result(lowered.proto, self.plan(), report)

    # -- the steps

    def _discover(self, model: Model) -> Structure:
        return discover(model, mask=self._mask, roles=self._roles)

    def _weighted(self, todo: Mapping[str, Choice]) -> tuple[dict[str, Choice], Gradients | None]:
        """The choices to be searched, and the gradients by which some of them weigh errors; without torch these weigh all alike."""
        known = calibrators()
        wanted = [key for key, choice in todo.items() if choice.calibrator in known and known[choice.calibrator].weighs(choice)]
        if not wanted:
            return dict(todo), None
        if not learn.available():
            self.warnings.append("torch is not installed (extra [learn]): errors weigh the same everywhere, as with metric=mse")
            return {k: replace(c, options={**c.options, "metric": "mse"}) if k in wanted else c for k, c in todo.items()}, None
        from onnxptq.learn.fisher import Fisher

        return dict(todo), Fisher(likelihood=likelihood(self.model, self.structure), seed=self.seed, threads=1)

    def _engine(self, source: Source, checkpoint: Checkpoint | None, gradients: Gradients | None = None) -> Engine:
        return Engine(
            self.folded,
            source,
            masks=self.structure.masks,
            memory_limit=self._memory_limit,
            threads=self.threads,
            checkpoint=checkpoint,
            progress=self.progress,
            gradients=gradients,
        )

    def _identity(self, source: Source) -> dict[str, str]:
        """What a checkpoint must have been made with."""
        return {
            "version": __version__,
            "model": digest(self.original),
            "recipe": repr((self.recipe.name, self.recipe.passes, self.recipe.pass_options)),
            "bits": str(self.bits),
            "samples": source.digest(),
            "plan": self.plan().to_json(),
            "seed": str(self.seed),
        }

    def _fold(self, engine: Engine) -> None:
        """Run the recipe's passes on a copy of the model; its structure may be another one afterwards."""
        if not self.recipe.passes:
            return
        model = self.original.copy()
        proofs = [sample for sample, _ in zip(self._held, range(PROOFS), strict=False)]
        passed = run_passes(
            model,
            {name: self._pass_options(name) for name in self.recipe.passes},
            discover=self._discover,
            fill=lambda current, requests, stage: engine.fill(requests, stage=stage, model=current),
            outputs=lambda current: list(run(current.to_proto(), proofs, name=self.name, threads=self.threads, error=InputError)),
        )
        self.model = self.folded = model
        self.structure, self.changes, self.drift = passed.structure, passed.changes, passed.drift

    def _pass_options(self, name: str) -> dict[str, Any]:
        """What the recipe says of a pass; the width it prepares for is that of activations, if it has one."""
        width = {"bits": min(self.bits.activations, 8)} if "bits" in passes()[name].options else {}
        return {**width, **self.recipe.pass_options.get(name, {})}

    def _weights(self, todo: Mapping[str, Choice], plan: Plan) -> dict[str, Choice]:
        """Weights searched one by one; what was left to the dual stream is rounded as ``omse`` does it."""
        found: dict[str, Choice] = {}
        tensors = self.folded.graph.tensors()
        with self.progress.task("weights", len(todo)) as step:
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
                    threads=self.threads,
                )
                found[key] = replace(choice, params=params)
                step()
        return found

    def _judge(self, plan: Plan, refitted: Mapping[str, Found], source: Source | None) -> Plan:
        """Keep the weights of the dual stream, unless weights rounded one by one do better on samples of ``source`` (if there is one)."""
        together = dual_stream_weights.apply(self.folded, self.structure, refitted)
        structure, refit = self._discover(together), plan.replace({key: one.choice for key, one in refitted.items()})
        if source is not None:
            rounded = plan.replace(self._weights({key: plan[key] for key in refitted}, plan))
            first, second = native.lower(together, structure, refit), native.lower(self.folded, self.structure, rounded)
            candidates = {"in closed form": first.proto, "rounded one by one": second.proto}
            cut = unpadded(self.original, self.structure.masks)
            best, verdicts = judge(self.original.to_proto(), candidates, source, cut=cut, threads=self.threads)
            self.notes.append(f"weights {verdicts}")
            if candidates[best] is second.proto:
                return rounded
        self.model, self.structure = together, structure
        return refit

    def _with_fallbacks(self, plan: Plan) -> Plan:
        """Static uniform parameters beside those of sites whose scheme standard ops cannot say."""
        assert self._source is not None
        needed = {key: choice for key, choice in plan.items() if not qdq.expressible(choice) and "fallback" not in choice.options}
        if not needed:
            return plan
        searches = {
            key: calibrators()["omse"].search(plan.sites[key], replace(choice, scheme="uniform", granularity="tensor", params=None))
            for key, choice in needed.items()
        }
        with self.watch.stage("calibration of static stand-ins"):
            found = self._engine(self._source, None).drive(searches, stage="static stand-ins")
        return plan.replace(
            {key: replace(needed[key], options={**needed[key].options, "fallback": one.params}) for key, one in found.items()}
        )

    def _layers(self, proto: onnx.ModelProto) -> tuple[Layer, ...]:
        """Error of each linear's, convolution's and attention's output along the depth of the network."""
        kinds = {one.output: ("linear", one.name) for one in self.structure.linears.values()}
        kinds |= {one.output: ("conv", one.name) for one in self.structure.convs.values()}
        kinds |= {one.output: ("attention", one.av) for one in self.structure.attentions.values()}
        parts = {site.consumer: site.part for site in self.structure.sites}
        order = [t.name for node in self.model.graph.nodes for t in node.outputs if t.name in kinds]
        made = {name for node in proto.graph.node for name in node.output}
        samples = [sample for sample, _ in zip(self._held, range(1), strict=False)]
        pairs = [(name, name) for name in order if name in made]
        cut = unpadded(self.model, self.structure.masks)
        found = compare.layers(self.folded.to_proto(), proto, pairs, samples, cut=cut, threads=self.threads)
        return tuple(
            Layer(name, parts[kinds[name][1]], kinds[name][0], metrics) for name, metrics in found.items() if kinds[name][1] in parts
        )

    def _report(
        self,
        plan: Plan,
        format: Format,
        constants: Constants,
        lowered: Lowered,
        outputs: Mapping[str, compare.Metrics],
        measured: Mapping[str, Measured],
        layers: tuple[Layer, ...],
    ) -> Report:
        assert self._source is not None
        sites = tuple(self._site(site, plan[key], measured.get(key)) for key, site in plan.sites.items())
        tensors = self.model.graph.tensors()
        weights = sum(4 * np.asarray(tensors[site.tensor].values).size for site in plan.sites.values() if site.role is Role.WEIGHT)
        found = self.structure
        return Report(
            model=self.name,
            recipe=self.recipe.name,
            bits=str(self.bits),
            format=format,
            sizes=Sizes(self.size, lowered.proto.ByteSize(), weights, lowered.weight_bytes),
            calibration=Calibration(self._source.name, len(self._source), 0 if self._held is self._source else len(self._held)),
            sites=sites,
            outputs=dict(outputs),
            settings={
                "preprocess": self._preprocess,
                "seed": str(self.seed),
                "constants": constants,
                **{f"set {key}": value for key, value in self.settings.items()},
            },
            structure={
                "linears": len(found.linears),
                "convolutions": len(found.convs),
                "attentions": len(found.attentions),
                "other products": len(found.matmuls),
            },
            stages=tuple(self.watch.stages),
            layers=layers,
            changes=self.changes,
            drift=dict(self.drift),
            warnings=tuple(dict.fromkeys([*self.warnings, *lowered.notes])),
            notes=tuple(self.notes),
            environment={
                "onnxptq": __version__,
                "onnx": onnx.__version__,
                "onnxruntime": metadata.version("onnxruntime"),
                "executor": "native ops" if library_path() is not None else "function bodies",
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
        )

    @staticmethod
    def _site(site: Site, choice: Choice, measured: Measured | None) -> SiteReport:
        return SiteReport(
            key=site.key,
            tensor=site.tensor,
            role=site.role,
            part=site.part,
            scheme=choice.scheme,
            calibrator=choice.calibrator,
            bits=choice.bits,
            bits_per_element=measured.bits_per_element if measured else float(choice.bits),
            granularity=choice.granularity,
            params=measured.words if measured else "",
            sqnr=measured.sqnr if measured else None,
            drawing=measured.drawing if measured else None,
        )
