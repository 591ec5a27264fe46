"""Attentions as ops of our own domain."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.lower.edges import code_edge, scheme_inputs
from onnxptq.lower.writer import Writer
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice
from onnxptq.structure import Attention, Role


def lower_attention(writer: Writer, attention: Attention) -> None:
    """A fused QAttention where the structure and the codes allow it, else quantized edges around float ops."""
    chosen = {
        Role.QUERY: writer.choice(attention.qk, Role.QUERY),
        Role.KEY: writer.choice(attention.qk, Role.KEY),
        Role.VALUE: writer.choice(attention.av, Role.VALUE),
        Role.SOFTMAX: writer.choice(attention.av, Role.SOFTMAX),
    }
    tensors = {
        Role.QUERY: attention.q,
        Role.KEY: attention.k,
        Role.VALUE: attention.v,
        Role.SOFTMAX: attention.probabilities,
    }
    consumers = {Role.QUERY: attention.qk, Role.KEY: attention.qk, Role.VALUE: attention.av, Role.SOFTMAX: attention.av}
    whole = {role: found[1] for role, found in chosen.items() if found is not None}
    if attention.fusable and len(whole) == 4 and _fusable(writer, attention, whole):
        _fuse(writer, attention, whole)
        return
    for role, choice in whole.items():
        code_edge(writer, tensors[role], consumers[role], choice, str(role))


def _fusable(writer: Writer, attention: Attention, whole: dict[Role, Choice]) -> bool:
    same = {whole[Role.QUERY].scheme, whole[Role.KEY].scheme}
    ranked = all(writer.tensors[t].shape is not None for t in (attention.q, attention.k, attention.v))
    per_channel = any(whole[role].granularity == "channel" for role in (Role.QUERY, Role.KEY))
    value = whole[Role.VALUE]
    factors_out = value.scheme == "uniform" or (value.scheme == "token" and value.granularity == "column")
    return ranked and not per_channel and same in ({"uniform"}, {"token"}) and factors_out


def _per_head(choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero-point in the fused attention's shape: [], [heads], or [heads, dim]."""
    params = choice.params
    assert isinstance(params, UniformParams)
    if params.scale.size == 1:
        return params.scale.reshape(()), params.zero.reshape(())
    shape = (choice.options["heads"], -1) if choice.granularity == "channel" else (-1,)
    return params.scale.reshape(shape), params.zero.reshape(shape)


def _fuse(writer: Writer, attention: Attention, whole: dict[Role, Choice]) -> None:
    name = attention.name
    parameters: list[gs.Tensor | None] = []
    for role in (Role.QUERY, Role.KEY, Role.VALUE):
        if whole[role].scheme == "token":
            parameters += [None, None]
            continue
        scale, zero = _per_head(whole[role])
        parameters += [writer.constant(f"{name}_{role}_scale", scale), writer.constant(f"{name}_{role}_zero", zero)]
    softmax = whole[Role.SOFTMAX]
    additive: list[gs.Tensor | None] = [writer.tensors[t] for t in attention.additive]
    if len(additive) > 2:
        total = writer.variable(f"{name}_bias", additive[0])
        writer.node("Sum", additive[1:], [total], name=f"{name}_sum")
        additive = [additive[0], total]
    additive += [None] * (2 - len(additive))
    relative = [writer.tensors[t] if t is not None else None for t in (attention.rel_h, attention.rel_w)]
    output = writer.tensors[attention.output]
    writer.take_over(output)
    writer.call(
        "QAttention",
        [
            writer.tensors[attention.q],
            writer.tensors[attention.k],
            writer.tensors[attention.v],
            *additive,
            *relative,
            *parameters,
            *scheme_inputs(writer, f"{name}_softmax", softmax),
        ],
        [output],
        name=f"{name}_q",
        q_bits=whole[Role.QUERY].bits,
        k_bits=whole[Role.KEY].bits,
        v_bits=whole[Role.VALUE].bits,
        p_bits=softmax.bits,
        qk_scheme=whole[Role.QUERY].scheme,
        v_scheme=whole[Role.VALUE].scheme,
        softmax_scheme=softmax.scheme,
        softmax_norm=int(softmax.options.get("norm", 0)),
        scale=float(attention.scale),
        heads=attention.heads,
    )
