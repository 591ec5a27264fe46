"""Mask inputs: integers or booleans that affect a softmax only by terms added to its scores, or by selecting scores."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxptq.errors import InputError
from onnxptq.graph.dataflow.flow import MOVES, standard, varying
from onnxptq.graph.model import Model
from onnxptq.structure.types import Attention

SIMPLE = MOVES | {
    "Add",
    "And",
    "Cast",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Sub",
    "Where",
    "Min",
    "Max",
    "ReduceMax",
    "ReduceMin",
}
"""Ops allowed between a mask input and the scores."""
LAYERS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "If", "LayerNormalization", "Loop", "MatMul", "Scan"})
"""Ops that read data, never a mask."""
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "bool"})


def masks(model: Model, found: dict[str, Attention], *, override: str | None) -> tuple[dict[str, str], frozenset[str]]:
    """Mask inputs with the token input of each, and the tensors that depend on masks alone.

    ``override`` names the mask input, or is ``none``.
    """
    inputs = {t.name: t for t in model.graph.inputs}
    if override == "none":
        return {}, frozenset()
    if override is not None and override not in inputs:
        raise InputError(f"--mask {override}: the model has no such input; it has {', '.join(inputs)} (or none)")
    names: dict[str, str] = {}
    made: set[str] = set()
    changing = varying(model)
    for name, tensor in inputs.items():
        if override is not None and name != override:
            continue
        derived = _derived(model, tensor, changing)
        added = any(term in derived for a in found.values() for term in a.additive)
        if override is None and not (added and is_integer(tensor) and not _otherwise_used(model, derived)):
            continue
        names[name] = _tokens(model, tensor)
        made |= derived
    return names, frozenset(made)


def is_integer(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds integers or booleans."""
    return tensor.dtype is not None and str(tensor.dtype) in INTEGERS


def _derived(model: Model, tensor: gs.Tensor, changing: set[str]) -> set[str]:
    """Tensors that depend on this input alone, through simple ops only."""
    found = {tensor.name}
    for node in model.graph.nodes:
        alive = [t.name for t in node.inputs if t.name in changing]
        if (
            alive
            and standard(node)
            and node.op in SIMPLE
            and all(name in found for name in alive)
            and not _is_index(node, found)
        ):
            found |= {t.name for t in node.outputs}
    return found


def _is_index(node: gs.Node, names: set[str]) -> bool:
    """Whether one of these tensors is the index of a gather."""
    return node.op.startswith("Gather") and node.inputs[1].name in names


def _otherwise_used(model: Model, names: set[str]) -> bool:
    """Whether one of the tensors is an index or the operand of a layer."""
    return any(
        (node.op in LAYERS and any(t.name in names for t in node.inputs)) or _is_index(node, names)
        for node in model.graph.nodes
    )


def _tokens(model: Model, mask: gs.Tensor) -> str:
    """The integer input of the mask's shape that indexes a table; '' where there is none."""
    for tensor in model.graph.inputs:
        if (
            tensor is mask
            or not is_integer(tensor)
            or tensor.shape is None
            or mask.shape is None
            or list(tensor.shape) != list(mask.shape)
        ):
            continue
        if any(
            node.op == "Gather" and isinstance(node.inputs[0], gs.Constant) and node.inputs[1] is tensor
            for node in tensor.outputs
        ):
            return str(tensor.name)
    return ""
