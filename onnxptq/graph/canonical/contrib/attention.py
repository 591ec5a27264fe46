"""Expand onnxruntime's fused attention ops to products, masks and a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer
from onnxptq.graph.canonical.rewrite import Miss, need

Pair = tuple[gs.Tensor | None, gs.Tensor | None]


@dataclass(frozen=True)
class Core:
    """Parameters shared by both ops, for queries, keys and values of shape [B, N, length, dim]."""

    mask: gs.Tensor | None
    bias: gs.Tensor | None
    scale: float
    """0 stands for one over the square root of the head's width."""
    causal: bool
    masked: float
    """The number added to the scores of masked keys."""


def _attention(write: Writer) -> list[gs.Tensor | None]:
    """Attention: project one input to queries, keys and values, then attend."""
    x, weight, bias, past = write.required(0), write.required(1), write.input(2), write.input(4)
    need(
        not write.attr("do_rotary", 0) and not write.attr("past_present_share_buffer", 0), "rotation or shared buffers"
    )
    width = weight.shape[-1] if weight.shape else None
    need(isinstance(width, int), "the width of the projection is not known")
    assert isinstance(width, int)
    sizes = [int(n) for n in write.attr("qkv_hidden_sizes", []) or [width // 3] * 3]
    core = _core(write, x, mask=write.input(3), bias=write.input(5))
    projected = write("MatMul", x, weight)
    if bias is not None:
        projected = write("Add", projected, bias)
    q, k, v = (_heads(write, t) for t in write.split(projected, sizes, -1))
    before: Pair = (None, None)
    if past is not None:
        before = tuple(write("Squeeze", t, write.ints(0)) for t in write.split(past, [1, 1], 0))
    y, keys, values = _attend(write, core, q, k, v, before)
    present = None
    if write.wants(1):
        present = write("Concat", *(write("Unsqueeze", t, write.ints(0)) for t in (keys, values)), axis=0)
    return [y, present]


def _multi_head(write: Writer) -> list[gs.Tensor | None]:
    """MultiHeadAttention: queries, keys and values are inputs, separate or packed."""
    query, key, held, bias = write.required(0), write.input(1), write.input(2), write.input(3)
    need(write.input(8) is None and write.input(9) is None, "a shared buffer of keys")
    core = _core(write, query, mask=write.input(4), bias=write.input(5))
    rank = write.rank(query)
    biases = _biases(write, bias, query, key, held)
    if key is None:
        need(rank == 5 and bias is None, "packed otherwise than as [B, S, N, 3, H]")
        q, k, v = (_picked(write, query, index) for index in range(3))
    elif held is None:
        need(rank == 3 and write.rank(key) == 5 and bias is None, "packed otherwise than as [B, S, N, 2, H]")
        q, k, v = _heads(write, query), _picked(write, key, 0), _picked(write, key, 1)
    else:
        ranks = [rank, write.rank(key), write.rank(held)]
        need(rank == 3 and set(ranks) <= {3, 4}, f"operands of {ranks} axes")
        q, k, v = (
            t if axes == 4 else _heads(write, t if b is None else write("Add", t, b))
            for t, axes, b in zip((query, key, held), ranks, biases, strict=True)
        )
    y, keys, values = _attend(write, core, q, k, v, (write.input(6), write.input(7)))
    return [y, keys if write.wants(1) else None, values if write.wants(2) else None]


def _core(write: Writer, query: gs.Tensor, *, mask: gs.Tensor | None, bias: gs.Tensor | None) -> Core:
    if mask is not None:
        rank = write.rank(mask)
        need(rank in (2, 3) or _one_per_row(mask, query), f"a mask of shape {list(mask.shape)}")
    return Core(
        mask,
        bias,
        float(write.attr("scale", 0.0) or 0.0),
        bool(write.attr("unidirectional", 0)),
        float(write.attr("mask_filter_value", -10000.0)),
    )


def _one_per_row(mask: gs.Tensor, query: gs.Tensor) -> bool:
    """Whether a mask of one axis holds the length of each row."""
    return (
        len(mask.shape) == 1
        and query.shape is not None
        and mask.shape[0] is not None
        and mask.shape[0] == query.shape[0]
    )


def _biases(
    write: Writer, bias: gs.Tensor | None, query: gs.Tensor, key: gs.Tensor | None, held: gs.Tensor | None
) -> list[gs.Tensor | None]:
    """Split the bias vector into the biases of queries, keys and values."""
    if bias is None:
        return [None] * 3
    width = query.shape[-1] if query.shape else None
    need(isinstance(width, int) and key is not None and held is not None, "a bias of packed operands")
    assert isinstance(width, int)
    array = write.array(bias)
    return [write.number(part, array.dtype) for part in np.split(array, [width, 2 * width])]


def _heads(write: Writer, x: gs.Tensor) -> gs.Tensor:
    """[B, S, N H] split into heads: [B, N, S, H]."""
    count = int(write.attr("num_heads", 0))
    if not count:
        raise Miss("the number of heads is not said")
    return write("Transpose", write("Reshape", x, write.ints(0, 0, count, -1)), perm=[0, 2, 1, 3])


def _picked(write: Writer, packed: gs.Tensor, index: int) -> gs.Tensor:
    """One of the tensors packed as [B, S, N, ., H], as [B, N, S, H]."""
    one = write("Gather", packed, write.number(index, np.int64), axis=3)
    return write("Transpose", one, perm=[0, 2, 1, 3])


def _attend(
    write: Writer, core: Core, q: gs.Tensor, k: gs.Tensor, v: gs.Tensor, past: Pair
) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
    """softmax(scale q k' + masks) v as [B, S, N H]; also all keys and values."""
    if past[0] is not None and past[1] is not None:
        k, v = write("Concat", past[0], k, axis=2), write("Concat", past[1], v, axis=2)
    scores = write("MatMul", q, write("Transpose", k, perm=[0, 1, 3, 2]))
    scores = write("Mul", scores, _scale(write, core, q))
    if core.mask is not None:
        scores = write("Add", scores, _masked(write, core.mask, k, core.masked))
    if core.bias is not None:
        scores = write("Add", scores, core.bias)
    if core.causal:
        scores = write("Add", scores, _causal(write, q, k))
    y = write("MatMul", write("Softmax", scores, axis=-1), v)
    joined = write("Transpose", y, perm=[0, 2, 1, 3])
    return write("Reshape", joined, write.ints(0, 0, -1)), k, v


def _scale(write: Writer, core: Core, q: gs.Tensor) -> gs.Tensor:
    if core.scale:
        return write.like(q, core.scale)
    node, count = write.node, int(write.attr("num_heads", 0))
    width = node.inputs[0].shape[-1] if node.op == "MultiHeadAttention" and node.inputs[0].shape else None
    if node.op == "Attention":
        sizes = write.attr("qkv_hidden_sizes", []) or [node.inputs[1].shape[-1] // 3]
        width = int(sizes[0])
    if isinstance(width, int):
        head = width if node.op == "MultiHeadAttention" and len(node.inputs[0].shape) == 5 else width // count
        return write.like(q, 1.0 / math.sqrt(head))
    last = write("Cast", write("Shape", q, start=3, end=4), to=onnx.TensorProto.FLOAT)
    return write("CastLike", write("Reciprocal", write("Sqrt", last)), q)


def _masked(write: Writer, mask: gs.Tensor, k: gs.Tensor, masked: float) -> gs.Tensor:
    """The term added to the scores for a mask of keys [B, T], of pairs [B, S, T] or of lengths [B]."""
    rank = len(mask.shape)
    if rank == 1:
        places = write("Range", write.number(0, np.int32), _length(write, k), write.number(1, np.int32))
        allowed = write(
            "Less", places, write("Unsqueeze", write("Cast", mask, to=onnx.TensorProto.INT32), write.ints(1))
        )
        rank = 2
    else:
        allowed = write("Greater", mask, write("CastLike", write.number(0, np.int32), mask))
    axes = (1, 2) if rank == 2 else (1,)
    chosen = write("Where", allowed, write.like(k, 0.0), write.like(k, masked))
    return write("Unsqueeze", chosen, write.ints(*axes))


def _length(write: Writer, k: gs.Tensor) -> gs.Tensor:
    """The number of keys, int32."""
    return write("Cast", write("Squeeze", write("Shape", k, start=2, end=3)), to=onnx.TensorProto.INT32)


def _causal(write: Writer, q: gs.Tensor, k: gs.Tensor) -> gs.Tensor:
    """A term with the lowest number for keys after the query; the last query matches the last key."""
    zero, one = write.number(0, np.int32), write.number(1, np.int32)
    keys, queries = _length(write, k), _length(write, q)
    columns = write("Range", zero, keys, one)
    rows = write("Add", write("Range", zero, queries, one), write("Sub", keys, queries))
    behind = write("Greater", columns, write("Unsqueeze", rows, write.ints(1)))
    return write("Where", behind, write.like(q, float(np.finfo(np.float32).min)), write.like(q, 0.0))


TABLE: dict[str, Expansion] = {"Attention": _attention, "MultiHeadAttention": _multi_head}
