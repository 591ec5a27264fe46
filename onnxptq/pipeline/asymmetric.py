"""Between a plan and the dual stream: which weights it finds, and the model with what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress
from onnxptq.calibration.sources.source import Source
from onnxptq.calibrators.dual_stream import NAME, DualStream, Target, Window
from onnxptq.calibrators.search.refit import Refit, Settings
from onnxptq.errors import InputError, nearest
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.graph.model import Model, value
from onnxptq.lower import native
from onnxptq.ops.uniform import UniformParams
from onnxptq.passes.linears import set_input, shift_output
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role, Structure

LARGEST = 5120
"""Inputs of a weight that are still solved for: the matrices are of this size squared."""


@dataclass(frozen=True)
class Found:
    """A weight by dual stream: the choice with its parameters, and the weight itself."""

    choice: Choice
    target: Target
    refit: Refit


def find(
    model: Model,
    structure: Structure,
    plan: Plan,
    source: Source,
    *,
    limit: int | None,
    threads: int | None,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> dict[str, Found]:
    """The weights that the plan leaves to the dual stream, by site key. Activations have their parameters by now."""
    targets = {}
    for key, choice in plan.items():
        site = plan.sites[key]
        if site.role is Role.WEIGHT and choice.calibrator == NAME:
            target = _target(model, structure, site.consumer, choice)
            if target is not None:
                targets[key] = target
    if not targets:
        return {}
    walk = DualStream(
        model.to_proto(),
        simulation(model, structure, plan),
        list(targets.values()),
        source,
        paddings=token_axes(model, structure.masks) if structure.masks else {},
        memory_limit=limit,
        threads=threads,
        checkpoint=checkpoint,
        progress=progress,
    )
    refits = walk.run()
    return {
        key: _found(plan[key], target, refits[target.name], plan.sites[key].axis) for key, target in targets.items()
    }


def simulation(model: Model, structure: Structure, plan: Plan) -> onnx.ModelProto:
    """The model with its activations coded and decoded, and float weights."""
    activations = Plan(
        {plan.sites[key]: choice for key, choice in plan.items() if plan.sites[key].role is not Role.WEIGHT}
    )
    return native.lower(model, structure, activations, constants="fp32").proto


def settings_of(choice: Choice) -> Settings:
    """The options of a choice as settings; a wrong one is an InputError."""
    known: dict[str, Any] = {field.name: type(field.default) for field in fields(Settings)}
    for option, given in choice.options.items():
        if option not in known:
            raise InputError(f"weights by {NAME!r} have no option {option!r}{nearest(option, known)}")
        kind = known[option]
        if (
            isinstance(given, bool) != (kind is bool)
            or not isinstance(given, (int, float) if kind is float else kind)
            or given < 0
        ):
            raise InputError(
                f"weights by {NAME!r}, option {option!r}: expected {kind.__name__}, not negative, got {given!r}"
            )
    return Settings(**choice.options)


def _target(model: Model, structure: Structure, name: str, choice: Choice) -> Target | None:
    """What the dual stream has to know of a node, or None where it is not for it."""
    settings, node = settings_of(choice), model.nodes()[name]
    weight = np.asarray(value(node.inputs[1]), np.float32)
    if choice.granularity != "channel":
        return None
    if name in structure.linears:
        return (
            Target(name, node.inputs[0].name, weight, choice.bits, choice.symmetric, None, settings)
            if weight.shape[0] <= LARGEST
            else None
        )
    rank = weight.ndim - 2
    plain = (
        node.op == "Conv" and int(node.attrs.get("group", 1)) == 1 and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    )
    if not plain or weight[0].size > LARGEST:
        return None
    window = Window(
        weight.shape[2:],
        tuple(node.attrs.get("strides", [1] * rank)),
        tuple(node.attrs.get("pads", [0] * 2 * rank)),
        tuple(node.attrs.get("dilations", [1] * rank)),
    )
    matrix = np.ascontiguousarray(weight.reshape(len(weight), -1).T)
    return Target(name, node.inputs[0].name, matrix, choice.bits, choice.symmetric, window, settings)


def _found(choice: Choice, target: Target, refit: Refit, axis: int) -> Found:
    shape = [1] * (2 if target.window is None else 2 + len(target.window.shape))
    shape[axis] = -1
    params = UniformParams(choice.bits, refit.scale.reshape(shape), refit.zero.reshape(shape))
    return Found(replace(choice, params=params), target, refit)


def apply(model: Model, structure: Structure, found: Mapping[str, Found]) -> Model:
    """A copy of the model with the weights as they will be decoded, and the biases corrected."""
    changed = model.copy()
    nodes = changed.nodes()
    for one in found.values():
        target, refit = one.target, one.refit
        node = nodes[target.name]
        set_input(changed, node, 1, target.kernel(refit.weight))
        if target.window is None:
            shift_output(changed, structure.linears[target.name], refit.shift)
        elif len(node.inputs) > 2 and (held := value(node.inputs[2])) is not None:
            set_input(changed, node, 2, held + refit.shift)
        else:
            node.inputs.append(gs.Constant(changed.unique(f"{target.name}_bias"), refit.shift))
    return changed
