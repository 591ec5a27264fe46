"""Parts of a multi-modal model, by the inputs each node depends on; and token-to-image attention."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxptq.errors import InputError
from onnxptq.graph.dataflow.flow import leading_to, reached
from onnxptq.graph.dataflow.trace import Tracer
from onnxptq.graph.edit import producer
from onnxptq.graph.model import Model
from onnxptq.structure.masks import is_integer
from onnxptq.structure.types import Attention, Conv, Linear, Part

TEXT, OTHER = 1, 2
TOKEN_TO_IMAGE = "token-to-image"
BARRIERS = frozenset({"LayerNormalization", "Softmax", "Resize"})


def parts(
    model: Model, lines: dict[str, Linear], convs: dict[str, Conv], found: dict[str, Attention]
) -> dict[str, Part]:
    """Part of each layer, softmax and product of two activations, by node name.

    Text depends on integer inputs alone. Fusion is an attention of image queries over text keys, with its adjacent
    projections and its gate. The decoder is the convolutions after the last attention. Everything else is visual.
    """
    marks = reached(model, {t.name: TEXT if _is_text(t) else OTHER for t in model.graph.inputs})
    behind = {t for t, mark in reached(model, {a.output: 1 for a in found.values()}).items() if mark}
    before = leading_to(model, [a.probabilities for a in found.values()])
    out: dict[str, Part] = {}
    for node in model.graph.nodes:
        if node.op not in ("MatMul", "Softmax", "Conv", "ConvTranspose", "LayerNormalization"):
            continue
        output = node.outputs[0].name
        if marks.get(output, 0) == TEXT:
            out[node.name] = Part.TEXT
        elif node.name in convs and output in behind and output not in before:
            out[node.name] = Part.DECODER
        else:
            out[node.name] = Part.VISUAL
    nodes = model.nodes()
    for attention in found.values():
        if marks.get(attention.k, 0) == TEXT and marks.get(attention.q, 0) not in (0, TEXT):
            for name in _fusion(model, nodes, attention):
                out[name] = Part.FUSION
    return out


def _is_text(tensor: gs.Tensor) -> bool:
    """Whether an input holds tokens or a mask: integers, but no image of bytes."""
    return is_integer(tensor) and (tensor.shape is None or len(tensor.shape) < 3)


def _fusion(model: Model, nodes: Mapping[str, gs.Node], attention: Attention) -> list[str]:
    """The attention's nodes, the layers of its operands, and the layers after it up to the next LayerNormalization."""
    found = {attention.name, attention.qk, attention.av}
    tensors = model.graph.tensors()
    for name in (attention.q, attention.k, attention.v):
        found |= _behind(tensors[name])
    queue = list(nodes[attention.av].outputs[0].outputs)
    inside = {nodes[attention.av].outputs[0].name}
    while queue:
        node = queue.pop(0)
        if node.outputs[0].name in inside or node.op in BARRIERS or _spatial(node):
            continue
        inside.add(node.outputs[0].name)
        if node.op in ("MatMul", "Conv"):
            found.add(node.name)
        queue += node.outputs[0].outputs
    for node in model.graph.nodes:
        # The other operand of a gating product: its projection belongs to fusion too.
        if node.op == "Mul" and node.outputs[0].name in inside and any(t.name in inside for t in node.inputs):
            for tensor in node.inputs:
                if tensor.name not in inside:
                    found |= _behind(tensor)
    return sorted(found)


def _behind(tensor: gs.Tensor) -> set[str]:
    """The first linears or convolutions upstream of a tensor."""
    found: set[str] = set()
    stack, seen = [tensor], set()
    while stack:
        here = stack.pop()
        node = producer(here)
        if here.name in seen or node is None or node.op in BARRIERS:
            continue
        seen.add(here.name)
        if node.op in ("MatMul", "Conv") and isinstance(node.inputs[1], gs.Constant):
            found.add(node.name)
        else:
            stack += list(node.inputs)
    return found


def _spatial(node: gs.Node) -> bool:
    """Whether a convolution has a kernel larger than 1."""
    return node.op in ("Conv", "ConvTranspose") and any(k > 1 for k in node.inputs[1].shape[2:])


def token_to_image(
    found: dict[str, Attention], lines: dict[str, Linear], tracer: Tracer, where: Mapping[str, Part]
) -> dict[str, Attention]:
    """Mark attentions whose queries and keys come from different tensors and which have more keys than queries."""
    out = {}
    tensors = tracer.model.graph.tensors()
    for name, attention in found.items():
        q, k = attention.q_source, attention.k_source
        shapes = [tracer.shape(tensors[t]) for t in (attention.q, attention.k)]
        crossing = (
            q is not None
            and k is not None
            and _root(tensors[lines[q.linear].input], tracer) != _root(tensors[lines[k.linear].input], tracer)
            and all(s is not None for s in shapes)
            and shapes[1][-2] > shapes[0][-2]  # type: ignore[index]
            and where.get(name) is not Part.FUSION
        )
        out[name] = replace(attention, token_to_image=crossing, part=where.get(name, Part.VISUAL))
    return out


def _root(tensor: gs.Tensor, tracer: Tracer) -> list[str]:
    return [t.name for t in tracer.origin(tensor)]


def override(
    where: dict[str, Part], found: dict[str, Attention], roles: Mapping[str, str]
) -> tuple[dict[str, Part], dict[str, Attention]]:
    """Apply ``--role NAME=REGEX``: regular expressions over node names, for a part or for token-to-image attention."""
    names = [*(p.value for p in Part), TOKEN_TO_IMAGE]
    where, found = dict(where), dict(found)
    for role, pattern in roles.items():
        key = role.replace("_", "-")
        if key not in names:
            raise InputError(f"--role {role}: no such role; there are {', '.join(names)}")
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise InputError(f"--role {role}={pattern}: not a regular expression: {error}") from error
        hits = [name for name in where if expression.search(name)]
        if not hits:
            raise InputError(f"--role {role}={pattern}: matches no layer; `onnxptq inspect` lists them")
        if key == TOKEN_TO_IMAGE:
            chosen = set(hits)
            found = {n: replace(a, token_to_image=bool({n, a.qk, a.av} & chosen)) for n, a in found.items()}
        else:
            where |= {name: Part(key) for name in hits}
    return where, {name: replace(a, part=where.get(name, a.part)) for name, a in found.items()}
