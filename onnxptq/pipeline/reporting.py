"""The report of a run, made from the values of its stages."""

from __future__ import annotations

import math
import platform
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.split import Samples
from onnxptq.calibration.statistics.rows import spread_rows
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.lower.writer import Lowered
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.measuring import ROWS, Measured, measure_sites
from onnxptq.pipeline.stages import Prepared, Solved
from onnxptq.pipeline.walking import walks
from onnxptq.plan import Choice, Plan
from onnxptq.report.data import Calibration, Layer, Report, SiteReport, Sizes, Verdict
from onnxptq.report.left import left_in_float, share_warning
from onnxptq.running import compare
from onnxptq.running.metrics import Metrics
from onnxptq.running.runner import Sample
from onnxptq.running.sessions import library_path
from onnxptq.structure import Role, Site, Structure
from onnxptq.version import __version__

LARGE = 1 << 20
"""Number of elements of a layer's output above which sampled rows estimate its error well enough."""


def report(
    prepared: Prepared,
    solved: Solved,
    lowered: Lowered,
    outputs: Mapping[str, Metrics],
    samples: Samples,
    config: RunConfig,
    context: RunContext,
    *,
    selection: Sequence[Verdict] = (),
    settings: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> Report:
    """Build the report of a run; measures every site and every layer."""
    with context.watch.stage("measure"):
        engine = walks(solved.folded.model, solved.structure, samples.report, config, replace(context, checkpoint=None))
        measured = measure_sites(solved.folded.model, solved.plan, engine, solved.model, solved.moved)
        first = next(iter(samples.report))
        left = left_in_float(solved.model, solved.structure, solved.plan, first, before=solved.calibrated.wanted)
        depth = layers(solved, lowered.proto, first, config)
    chosen = samples.selection is not samples.calibration
    return Report(
        model=prepared.name,
        recipe=config.recipe.name,
        bits=config.widths_in_words,
        format=config.format,
        sizes=Sizes(prepared.size, lowered.proto.ByteSize(), weight_bytes(solved), lowered.weight_bytes),
        calibration=Calibration(
            samples.calibration.name,
            len(samples.calibration),
            len(samples.report) if samples.apart else 0,
            len(samples.selection) if chosen else 0,
        ),
        sites=sites(solved.plan, measured),
        outputs=dict(outputs),
        settings={
            **(settings or {}),
            "seed": str(config.seed),
            "constants": config.constants,
            **({"target": config.target.name} if config.target is not None else {}),
            **{f"set {key}": value for key, value in config.settings.items()},
        },
        structure=counts(solved.structure),
        stages=tuple(context.watch.stages),
        layers=depth,
        changes=solved.folded.changes,
        drift=dict(solved.folded.drift),
        selection=tuple(selection),
        warnings=tuple(dict.fromkeys([*solved.warnings, *warnings, *share_warning(left), *lowered.notes])),
        notes=(*prepared.model.notes, *samples.calibration.notes),
        environment=environment(),
    )


def layers(solved: Solved, proto: onnx.ModelProto, sample: Sample, config: RunConfig) -> tuple[Layer, ...]:
    """Error of each linear's, convolution's and attention's output along the depth of the network."""
    found, model = solved.structure, solved.model
    kinds = {one.output: ("linear", one.name) for one in found.linears.values()}
    kinds |= {one.output: ("conv", one.name) for one in found.convs.values()}
    kinds |= {one.output: ("attention", one.av) for one in found.attentions.values()}
    parts = {site.consumer: site.part for site in found.sites}
    order = [t.name for node in model.graph.nodes for t in node.outputs if t.name in kinds]
    made = {name for node in proto.graph.node for name in node.output}
    errors = compare.layers(
        solved.folded.model.to_proto,
        proto,
        [(name, name) for name in order if name in made],
        [sample],
        rows=partial(_rows, token_axes(model, found.masks) if found.masks else {}),
        memory_limit=config.memory_limit,
        cut=unpadded(model, found.masks),
        threads=config.threads,
    )
    return tuple(
        Layer(name, parts[kinds[name][1]], kinds[name][0], metrics)
        for name, metrics in errors.items()
        if kinds[name][1] in parts
    )


def _rows(padded: Container[str], name: str, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Sampled rows of a large tensor; all unpadded elements of a tensor with padded tokens."""
    if name in padded or len(shape) < 2 or math.prod(shape) <= LARGE:
        return None
    rows = spread_rows(math.prod(shape[:-1]), ROWS, 0)
    return np.stack(np.unravel_index(rows, shape[:-1]), axis=-1).astype(np.int64)


def sites(plan: Plan, measured: Mapping[str, Measured]) -> tuple[SiteReport, ...]:
    """Every site with its choice and measurements."""
    return tuple(_site(site, plan[key], measured.get(key)) for key, site in plan.sites.items())


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


def weight_bytes(solved: Solved) -> int:
    """Size in bytes of the quantized weights in FP32."""
    tensors = solved.model.graph.tensors()
    weights = (site.tensor for site in solved.plan.sites.values() if site.role is Role.WEIGHT)
    return sum(4 * np.asarray(tensors[name].values).size for name in weights)


def counts(found: Structure) -> dict[str, int]:
    """Numbers of layers, attentions and sites in the structure."""
    return {
        "linears": len(found.linears),
        "convolutions": len(found.convs),
        "attentions": len(found.attentions),
        "other products": len(found.matmuls),
    }


def environment() -> dict[str, str]:
    """Versions, machine, executor."""
    return {
        "onnxptq": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": metadata.version("onnxruntime"),
        "executor": "native ops" if library_path() is not None else "function bodies",
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
