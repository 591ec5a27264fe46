"""Sensitivity: how much each site's error costs the outputs, at each width.

All errors of one width are added to the model at once, each with a factor, in as many runs as there are sites, whose
factors are orthogonal. The outputs times the factors of one site are then what this site alone does to the outputs, to
first order. With more sites than ``PROBES`` the factors are random signs, and small errors drown in the others. At
other widths the outputs' error follows the site's own squared error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxptq.bits import FLOAT, WIDTHS, Bits
from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.split import Samples, Split
from onnxptq.errors import ArtifactError
from onnxptq.graph.model import Model
from onnxptq.lower.probes import ENERGIES, FACTORS, with_errors
from onnxptq.pipeline import weights
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.stages import Folded, calibrate
from onnxptq.plan import Plan
from onnxptq.report.cost import elements
from onnxptq.running.runner import Cut, Outputs, Runner, Sample
from onnxptq.structure import Role, Site

PROBED = 4
"""The width whose effect on the outputs is measured."""
CALIBRATED = 8
"""Samples that find the parameters of each width."""
SAMPLES, PROBES = 2, 256
"""Samples, and most runs for each."""
STRENGTH = 0.03
"""Factor of the added errors: small, so that the outputs answer in proportion."""
MOST = 1 << 16
"""Most elements of an output that are compared, drawn at random."""
LEAST = 1e-6
"""Smallest error that counts, as a fraction of the largest."""


@dataclass(frozen=True)
class Sensitivity:
    """One site: its share of the outputs' squared error (error over signal) by width."""

    site: Site
    size: int
    """Number of values: of a weight, or of the activation in one sample."""
    errors: Mapping[int, float]


def sensitivities(folded: Folded, samples: Samples, config: RunConfig, context: RunContext) -> dict[str, Sensitivity]:
    """Every site of the plan by key, at all widths."""
    source = samples.calibration
    samples = replace(samples, calibration=Split(source, 0, min(CALIBRATED, len(source))))
    seen = [sample for sample, _ in zip(source, range(SAMPLES), strict=False)]
    context = replace(context, checkpoint=None)
    energies: dict[int, NDArray[np.float64]] = {}
    for width in WIDTHS:
        plan = coded(folded, width, samples, config, context)
        with context.watch.stage(f"sensitivity at {width} bits"):
            proto = with_errors(folded.model, folded.structure, plan)
            run = Runner(proto, name="the model with errors added", threads=config.threads, error=ArtifactError)
            none = np.zeros(len(plan), np.float32)
            held = [run({**sample, FACTORS: none})[ENERGIES].astype(np.float64) for sample in seen]
            energies[width] = np.sum(held, axis=0)
            if width == PROBED:
                cut = unpadded(folded.model, folded.structure.masks)
                effects = probe(run, len(plan), seen, config.seed, cut)
    sites = plan.sites
    tensors = [site.tensor for site in sites.values() if site.role is not Role.WEIGHT]
    sizes = elements(folded.model, list(dict.fromkeys(tensors)), seen[0]) | weight_sizes(folded.model, sites.values())
    return {
        key: Sensitivity(site, sizes[site.tensor], curve(effects[i], {w: float(e[i]) for w, e in energies.items()}))
        for i, (key, site) in enumerate(sites.items())
    }


def weight_sizes(model: Model, sites: Iterable[Site]) -> dict[str, int]:
    """Number of elements of the weights among these sites."""
    tensors = model.graph.tensors()
    return {
        site.tensor: int(np.asarray(tensors[site.tensor].values).size) for site in sites if site.role is Role.WEIGHT
    }


def coded(folded: Folded, width: int, samples: Samples, config: RunConfig, context: RunContext) -> Plan:
    """A plan with all parameters at one width; weights are rounded one by one."""
    bits = Bits(*(FLOAT if given == FLOAT else width for given in (config.bits.weights, config.bits.activations)))
    calibrated = calibrate(folded, samples, replace(config, bits=bits, widths={}), context)
    return with_rounded(calibrated.plan, folded, samples, config, context)


def with_rounded(
    plan: Plan, folded: Folded, samples: Samples, config: RunConfig, context: RunContext, calibrator: str = "omse"
) -> Plan:
    """The plan with its weights rounded one by one."""
    todo = {
        key: replace(c, calibrator=calibrator, params=None, options={}, granularity="channel")
        for key, c in plan.items()
        if plan.sites[key].role is Role.WEIGHT
    }
    problem = weights.problem(folded.model, folded.structure, plan, samples, config, context)
    return plan.replace({key: one.choice for key, one in weights.find(todo, problem).items()})


def probe(run: Runner, count: int, samples: Sequence[Sample], seed: int, cut: Cut) -> NDArray[np.float64]:
    """Squared error over signal that each site brings to the outputs."""
    rng = np.random.default_rng(seed)
    total = np.zeros(count)
    for sample in samples:
        factors, exact = _factors(count, rng)

        def outputs(row: NDArray[np.float64], sample: Sample = sample) -> Outputs:
            found = run({**sample, FACTORS: (STRENGTH * row).astype(np.float32)})
            return cut({name: array for name, array in found.items() if name != ENERGIES}, sample)

        clean = outputs(np.zeros(count))
        places = {name: _places(array.size, rng) for name, array in clean.items() if array.dtype.kind == "f"}
        base = _relative(clean, clean, places)
        change = np.stack([_relative(outputs(row), clean, places) - base for row in factors]) / STRENGTH
        products, runs = change @ change.T, len(factors)
        alone = np.einsum("ms,mn,ns->s", factors, products, factors, optimize=True) / runs**2
        total += alone if exact else (alone - np.trace(products) / runs**2) / (1 - 1 / runs)
    total /= len(samples)
    return np.asarray(np.maximum(total, LEAST * total.max(initial=0.0)))


def _factors(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], bool]:
    """Factors by run and site, mean square 1; and whether those of any two sites are orthogonal."""
    if count > PROBES:
        return rng.choice([-1.0, 1.0], size=(PROBES, count)), False
    return np.linalg.qr(rng.standard_normal((count, count)))[0] * math.sqrt(count), True


def _places(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The elements of an output that are compared."""
    return np.arange(size) if size <= MOST else np.sort(rng.choice(size, MOST, replace=False))


def _relative(outputs: Outputs, clean: Outputs, places: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """All outputs in a row, each scaled so that its clean values have the same energy."""
    parts = []
    for name, where in places.items():
        reference = clean[name].reshape(-1)[where].astype(np.float64)
        scale = math.sqrt(float(reference @ reference) * len(places)) or 1.0
        parts.append(outputs[name].reshape(-1)[where].astype(np.float64) / scale)
    return np.nan_to_num(np.concatenate(parts))


def curve(effect: float, energies: Mapping[int, float]) -> dict[int, float]:
    """Errors at all widths from the effect at one, in proportion to the site's own error; never rising with width."""
    known, found, last = energies[PROBED], dict[int, float](), math.inf
    for width, energy in sorted(energies.items()):
        last = found[width] = min(effect * (energy / known if known > 0 else 1.0), last)
    return found


@dataclass(frozen=True)
class Layer:
    """The part of the outputs' squared error that one layer or attention product brings."""

    name: str
    weight: float
    rest: float

    @property
    def share(self) -> float:
        """Weight and activations together."""
        return self.weight + self.rest


def by_layer(found: Mapping[str, Sensitivity], bits: Bits) -> list[Layer]:
    """Every layer and product, largest share first."""
    held: dict[str, list[float]] = {}
    for one in found.values():
        weight = one.site.role is Role.WEIGHT
        held.setdefault(one.site.consumer, [0.0, 0.0])[not weight] += one.errors[
            bits.weights if weight else bits.activations
        ]
    total = sum(map(sum, held.values())) or 1.0
    layers = [Layer(name, weight / total, rest / total) for name, (weight, rest) in held.items()]
    return sorted(layers, key=lambda layer: -layer.share)
