"""The account of a run: what was found, decided and measured, gathered into a report."""

from __future__ import annotations

import math
import platform
from collections.abc import Container, Mapping
from functools import partial
from importlib import metadata

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.statistics.rows import spread_rows
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.pipeline.candidate import Attempt
from onnxptq.pipeline.measuring import ROWS, Measured
from onnxptq.plan import Choice, Plan
from onnxptq.report.data import Layer, SiteReport
from onnxptq.running import compare
from onnxptq.running.runner import Sample
from onnxptq.running.sessions import library_path
from onnxptq.structure import Role, Site, Structure
from onnxptq.version import __version__

LARGE = 1 << 20
"""Elements of a layer's output from which on some of its rows say enough of its error."""


def layers(attempt: Attempt, proto: onnx.ModelProto, sample: Sample) -> tuple[Layer, ...]:
    """Error of each linear's, convolution's and attention's output along the depth of the network."""
    found = attempt.structure
    kinds = {one.output: ("linear", one.name) for one in found.linears.values()}
    kinds |= {one.output: ("conv", one.name) for one in found.convs.values()}
    kinds |= {one.output: ("attention", one.av) for one in found.attentions.values()}
    parts = {site.consumer: site.part for site in found.sites}
    order = [t.name for node in attempt.model.graph.nodes for t in node.outputs if t.name in kinds]
    made = {name for node in proto.graph.node for name in node.output}
    pairs = [(name, name) for name in order if name in made]
    task, padded = attempt.task, token_axes(attempt.model, found.masks) if found.masks else {}
    errors = compare.layers(
        attempt.folded.to_proto,
        proto,
        pairs,
        [sample],
        rows=partial(_rows, padded),
        memory_limit=task.memory_limit,
        cut=unpadded(attempt.model, found.masks),
        threads=task.threads,
    )
    return tuple(
        Layer(name, parts[kinds[name][1]], kinds[name][0], metrics)
        for name, metrics in errors.items()
        if kinds[name][1] in parts
    )


def _rows(padded: Container[str], name: str, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Sampled rows of a large tensor; of one with padded tokens all counts but these."""
    if name in padded or len(shape) < 2 or math.prod(shape) <= LARGE:
        return None
    rows = spread_rows(math.prod(shape[:-1]), ROWS, 0)
    return np.stack(np.unravel_index(rows, shape[:-1]), axis=-1).astype(np.int64)


def sites(plan: Plan, measured: Mapping[str, Measured]) -> tuple[SiteReport, ...]:
    """Every site with what it got."""
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


def weight_bytes(attempt: Attempt) -> int:
    """Size of the weights that were quantized, as FP32."""
    tensors, plan = attempt.model.graph.tensors(), attempt.plan
    return sum(
        4 * np.asarray(tensors[site.tensor].values).size for site in plan.sites.values() if site.role is Role.WEIGHT
    )


def counts(found: Structure) -> dict[str, int]:
    """How much of what was found."""
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
