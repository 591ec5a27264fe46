"""Guard: convolutions whose codes cost the outputs too much get inputs of 8 bits or in float, or stay float whole.

The model is measured as planned, with the inputs of all convolutions relieved, with all convolutions in float, and at 8
bits as onnxruntime's dynamic quantization makes it, whose convolutions are in float too. Where the first falls too far
behind, each group of convolutions is measured alone, and groups are relieved, of most error a multiplication first,
until the outputs are as good as the limits ask for: their inputs where that is enough for it, else all of them, weights
included. Weights that compensate for codes are solved again for the codes that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from onnxptq.bits import WIDEST
from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.source import Sample
from onnxptq.calibration.sources.split import Samples, Split
from onnxptq.errors import ArtifactError
from onnxptq.graph.edit import set_constant
from onnxptq.graph.model import value
from onnxptq.ops.rows import TokenParams
from onnxptq.pipeline.candidates import native_proto
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.dynamic import dynamically_quantized
from onnxptq.pipeline.selection import mean_sqnr
from onnxptq.pipeline.stages import Prepared, Solved, solve, structure_of
from onnxptq.plan import Choice, Plan
from onnxptq.report.cost import elements
from onnxptq.running.compare import outputs
from onnxptq.running.runner import run
from onnxptq.structure import Role

SAMPLES = 4
GROUPS = 16
"""Maximum number of groups measured alone; with more convolutions, neighbours share a group."""
NAMED = 3
MARGIN = 1.0
"""dB above onnxruntime's dynamic quantization on the samples here, which are few."""
Make = Callable[[], onnx.ModelProto]
Score = Callable[[Make], float]
Relief = Callable[[Solved, Sequence[str]], Solved]
"""The model solved with the inputs of these convolutions relieved."""


def guard(
    prepared: Prepared, solved: Solved, samples: Samples, config: RunConfig, context: RunContext
) -> tuple[Solved, tuple[str, ...]]:
    """The model with the inputs of some convolutions relieved, and a warning about them; or the model unchanged."""
    plan, convs, limits = solved.plan, solved.structure.convs, config.recipe.guard
    sites = {key: site for key, site in plan.sites.items() if site.consumer in convs}
    inputs = [key for key, site in sites.items() if site.role is not Role.WEIGHT]
    if limits is None or config.plan is not None or not inputs:
        return solved, ()
    with context.watch.stage("guard"):
        seen = list(Split(samples.selection, max(len(samples.selection) - SAMPLES, 0), len(samples.selection)))
        score = _scorer(prepared, seen, config)
        enough = limits.enough_at(min(plan[key].bits for key in inputs))
        before = score(partial(native_proto, solved))
        if before >= enough:
            return solved, ()
        relief: Relief = partial(_relieved, dynamic=config.format != "qdq")
        after = score(partial(native_proto, relief(solved, inputs)))
        goal = min(after - limits.below, enough)
        resolved: Solved | None = None
        if len(sites) < len(plan) and all(choice.bits >= WIDEST for choice in plan.values()):
            floats, peer = _in_float(solved, inputs), _peer(prepared, score)
            rest = score(partial(native_proto, floats))
            if solved.moved and rest < min(peer, enough):
                resolved = _solved_again(solved, floats.plan, samples, config, context)
                rest = score(partial(native_proto, resolved))
            goal = min(max(rest - limits.below, min(peer + MARGIN, max(rest, after))), enough)
            if after < goal:
                relief, after = _in_float, rest
        if before >= goal:
            return solved, ()
        products = _products(solved, inputs, seen[0])
        parts = np.array_split(np.arange(len(inputs)), min(GROUPS, len(inputs)))
        groups = _by_worth(solved, [[inputs[i] for i in part] for part in parts], products, score, relief, context)
        few, many = 0, len(groups)
        while many - few > 1:
            middle = (few + many) // 2
            reached = score(partial(native_proto, relief(solved, _joined(groups[:middle]))))
            if reached >= goal:
                many, after = middle, reached
            else:
                few = middle
        chosen = _joined(groups[:many])
        done = relief(solved, chosen)
        if solved.moved:
            again = resolved
            if again is None or again.plan.keys() != done.plan.keys():
                again = _solved_again(solved, done.plan, samples, config, context)
            reached = score(partial(native_proto, again))
            done, after = (again, reached) if reached > after else (done, after)
    words = _words(done.plan, plan, chosen, products, before, after, whole=relief is _in_float)
    return replace(done, structure=structure_of(done.model, config)), (words,)


def relieved(choice: Choice, *, dynamic: bool = True) -> Choice | None:
    """8 bits with run-time ranges instead of fewer; float (None) instead of 8, or if no range can be ``dynamic``."""
    ranges = choice.options.get("geometry")
    if choice.bits >= WIDEST or ranges is None or not dynamic:
        return None
    wide = replace(choice, scheme="token", calibrator="token", bits=WIDEST, granularity=ranges, symmetric=False)
    return replace(wide, params=TokenParams(WIDEST), options={"geometry": ranges})


def _relieved(solved: Solved, keys: Sequence[str], *, dynamic: bool) -> Solved:
    """The model with these inputs at 8 bits or in float."""
    found = {key: relieved(solved.plan[key], dynamic=dynamic) for key in keys}
    wide = {key: choice for key, choice in found.items() if choice is not None}
    return replace(solved, plan=solved.plan.without([key for key in keys if key not in wide]).replace(wide))


def _in_float(solved: Solved, keys: Sequence[str]) -> Solved:
    """The model with the convolutions of these inputs in float, with the weights from before solving."""
    plan, model = solved.plan, solved.model.copy()
    names = {plan.sites[key].consumer for key in keys}
    nodes, originals = model.nodes(), solved.folded.model.nodes()
    for name in names:
        node, held = nodes[name], [value(tensor) for tensor in originals[name].inputs[1:]]
        while len(node.inputs) > 1 + len(held):
            node.inputs.pop()
        for index, array in enumerate(held, start=1):
            if array is not None:
                set_constant(model, node, index, array)
    gone = [key for key, site in plan.sites.items() if site.consumer in names]
    return replace(solved, model=model, plan=plan.without(gone))


def _solved_again(solved: Solved, plan: Plan, samples: Samples, config: RunConfig, context: RunContext) -> Solved:
    """The model with the activations of ``plan``, and weights solved for these."""
    calibrated = solved.calibrated
    kept = calibrated.plan.without([key for key in calibrated.plan if key not in plan])
    changed = {key: plan[key] for key in kept if plan.sites[key].role is not Role.WEIGHT}
    return solve(replace(calibrated, plan=kept.replace(changed)), samples, config, replace(context, checkpoint=None))


def _scorer(prepared: Prepared, samples: Sequence[Sample], config: RunConfig) -> Score:
    """A function that measures a model: mean SQNR of its outputs."""
    cut = unpadded(prepared.model, prepared.structure.masks)
    expected = list(run(prepared.model.to_proto, samples, name="the original", cut=cut, threads=config.threads))

    def score(make: Make) -> float:
        got = run(make, samples, name="the model with other inputs of convolutions", cut=cut, threads=config.threads)
        found = mean_sqnr(outputs(expected, got, error=ArtifactError))
        return found if found is not None else np.inf

    return score


def _peer(prepared: Prepared, score: Score) -> float:
    """The score of onnxruntime's dynamic quantization; minus infinity for models that it cannot make or run."""
    try:
        return score(partial(dynamically_quantized, prepared.model.to_proto()))
    except Exception:  # its failures have many types
        return -np.inf


def _by_worth(
    solved: Solved,
    groups: Sequence[list[str]],
    products: Mapping[str, int],
    score: Score,
    relief: Relief,
    context: RunContext,
) -> list[list[str]]:
    """The groups by the output error of their quantization per multiplication, largest first."""
    worth, plan, folded = [], solved.plan, solved.folded
    with context.progress.task("guard", len(groups)) as step:
        for group in groups:
            names = {plan.sites[key].consumer for key in group} if relief is _in_float else set()
            alone = {site: plan[key] for key, site in plan.sites.items() if key in group or site.consumer in names}
            make = partial(
                native_proto, replace(solved, model=folded.model, structure=folded.structure, plan=Plan(alone))
            )
            worth.append(10 ** (-score(make) / 10) / sum(products[key] for key in group))
            step()
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: -worth[i])]


def _joined(groups: Iterable[Iterable[str]]) -> list[str]:
    return [key for group in groups for key in group]


def _products(solved: Solved, keys: Sequence[str], sample: Sample) -> dict[str, int]:
    """Number of multiplications of each site's convolution for one sample."""
    tensors, found = solved.folded.model.graph.tensors(), {}
    convs = {key: solved.structure.convs[solved.plan.sites[key].consumer] for key in keys}
    read = {key: conv.input if conv.transpose else conv.output for key, conv in convs.items()}
    sizes = elements(solved.folded.model, list(dict.fromkeys(read.values())), sample)
    for key, conv in convs.items():
        weight = value(tensors[conv.weight])
        assert weight is not None
        found[key] = max(sizes[read[key]] * int(np.prod(weight.shape[1:])), 1)
    return found


def _words(
    done: Plan,
    plan: Plan,
    keys: Sequence[str],
    products: Mapping[str, int],
    before: float,
    after: float,
    *,
    whole: bool,
) -> str:
    wide = sum(key in done for key in keys)
    kept = [f"{wide} at {WIDEST} bits"] * bool(wide) + [f"{len(keys) - wide} in float"] * (wide < len(keys))
    what = "convolutions, weights included," if whole else "inputs of convolutions"
    names = ", ".join(plan.sites[key].consumer for key in keys[:NAMED]) + ", ..." * (len(keys) > NAMED)
    share = sum(products[key] for key in keys) / sum(products.values())
    return (
        f"guard: coded as asked for, {what} cost the outputs too much ({before:.1f} dB); "
        f"{' and '.join(kept)} of {len(products)} ({share:.0%} of the convolutions' multiplications): {after:.1f} dB; "
        f"worst first: {names}"
    )
