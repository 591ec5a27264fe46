"""``discover``: the structure of a canonical graph and its sites."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import varying
from onnxptq.graph.dataflow.trace import Tracer
from onnxptq.graph.edit import producer
from onnxptq.graph.model import Model
from onnxptq.structure import layers, left, masks, parts, scope
from onnxptq.structure.attentions import attentions
from onnxptq.structure.types import Attention, Conv, Linear, Part, Role, Site, Structure


def discover(model: Model, *, mask: str | None = None, roles: Mapping[str, str] | None = None) -> Structure:
    """Find the structure of a canonical model from its graph alone, never from names.

    ``mask`` names the mask input (or is ``none``); ``roles`` maps a part's name, or ``token-to-image``, to a regular
    expression over node names.
    """
    tracer = Tracer(model)
    changing = varying(model)
    lines, convs = layers.linears(model), layers.convs(model)
    found = attentions(model, lines, tracer, changing)
    where = parts.parts(model, lines, convs, found)
    found = parts.token_to_image(found, lines, tracer, where)
    where, found = parts.override(where, found, roles or {})
    names, derived = masks.masks(model, found, override=mask)
    found = {name: replace(a, masked=any(term in derived for term in a.additive)) for name, a in found.items()}
    products = {n for a in found.values() for n in (a.qk, a.av)}
    others = tuple(
        n.name
        for n in model.graph.nodes
        if n.op == "MatMul" and n.name not in products and all(t.name in changing for t in n.inputs)
    )
    norms = layers.norms(model, lines, tracer)
    skipped = scope.in_float(model, lines, convs, found, tracer)
    return Structure(
        linears=lines,
        convs=convs,
        attentions=found,
        matmuls=others,
        sites=_sites(model, tracer, lines, convs, found, others, where, skipped),
        masks=names,
        norms=tuple(norms),
        norm_readers=norms,
        parts=where,
        batch_norms=tuple(n.name for n in model.graph.nodes if n.op == "BatchNormalization"),
        gelus=tuple(n.name for n in model.graph.nodes if n.op == "Gelu"),
        left=skipped | left.products(model, {*lines, *convs, *products}, found, changing),
        hidden=left.hidden(model),
    )


def _sites(
    model: Model,
    tracer: Tracer,
    lines: dict[str, Linear],
    convs: dict[str, Conv],
    found: dict[str, Attention],
    others: tuple[str, ...],
    where: Mapping[str, Part],
    skipped: Collection[str],
) -> tuple[Site, ...]:
    """All sites in graph order."""
    scores = {a.qk: a for a in found.values()}
    values = {a.av: a for a in found.values()}
    tensors = model.graph.tensors()
    sites: list[Site] = []

    def add(tensor: str, role: Role, *, output: str, axis: int = -1, default: bool = True, partner: str = "") -> None:
        shape = tensors[tensor].shape
        length = shape[axis] if shape is not None and len(shape) else None
        channels = int(length) if isinstance(length, int) else None
        sites.append(Site(tensor, name, role, where.get(name, Part.VISUAL), channels, axis, default, partner, output))

    for node in model.graph.nodes:
        name = node.name
        default = name not in skipped
        if name in lines:
            line = lines[name]
            add(line.weight, Role.WEIGHT, axis=1, default=default, partner=line.input, output=line.output)
            add(line.input, _input_role(node, Role.LINEAR_INPUT, tracer), default=default, output=line.output)
        elif name in convs:
            conv = convs[name]
            add(
                conv.weight,
                Role.WEIGHT,
                axis=1 if conv.transpose else 0,
                default=default,
                partner=conv.input,
                output=conv.output,
            )
            add(conv.input, _input_role(node, Role.CONV_INPUT, tracer), axis=1, default=default, output=conv.output)
        elif name in scores:
            q, k, made = scores[name].q, scores[name].k, node.outputs[0].name
            add(q, Role.QUERY, partner=k, output=made)
            add(k, Role.KEY, partner=q, output=made)
        elif name in values:
            one = values[name]
            add(one.probabilities, Role.SOFTMAX, partner=one.v, output=one.output)
            add(one.v, Role.VALUE, partner=one.probabilities, output=one.output)
        elif name in others:
            for tensor in dict.fromkeys(t.name for t in node.inputs):
                add(tensor, Role.MATMUL_INPUT, default=False, output=node.outputs[0].name)
    return tuple(sites)


def _input_role(node: gs.Node, role: Role, tracer: Tracer) -> Role:
    """GELU if only moves lie between a Gelu and the layer."""
    origin = tracer.origin(node.inputs[0])
    gelus = [t for t in origin if (made := producer(t)) is not None and made.op == "Gelu"]
    return Role.GELU if origin and len(gelus) == len(origin) else role
