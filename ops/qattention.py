"""QAttention: scores, softmax and the weighted sum of values, with every operand coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops import operand
from onnxptq.ops.body import FLOAT, LARGEST, Body
from onnxptq.ops.rows import row_range, row_range_body
from onnxptq.ops.scheme import F32, Array
from onnxptq.ops.spec import OpSpec

COLUMNS = -2
"""The axis of v's columns: a channel's scale applies before the sum over keys."""
CODED = ("q_scale?", "q_zero?", "k_scale?", "k_zero?", "v_scale?", "v_zero?")
SOFTMAX = {"form": "softmax", "groups": 1, "cells": 0}


def _by_head_body(body: Body, values: str, like: str, heads: int) -> str:
    """Numbers of size 1, heads or heads * width, broadcastable against [..., rows, width] whose leading dimensions end
    in heads."""
    values = body.cast(values, FLOAT)
    if heads == 1:
        return body("Reshape", values, body.integers([1, -1]))
    size = body.shape(body("Reshape", values, body.integers([-1])), 0)
    high = body("Min", size, body.integers([heads]))
    width, leading = body("Div", size, high), body.shape(like, 0, -2)
    batches = body("Div", body("ReduceProd", leading, body.integers([0])), body.integers([heads]))
    all_heads = body("Concat", batches, body.integers([heads]), body.integers([1]), axis=0)
    spread = body("Expand", body.reshape(values, high, width), all_heads)
    return body.reshape(spread, leading, body.integers([1]), width)


def _by_head(values: Array, shape: Sequence[int], heads: int) -> Array:
    high = min(values.size, heads)
    batches = int(np.prod(shape[:-2], dtype=np.int64)) // heads
    spread = np.broadcast_to(values.reshape(high, -1), (batches, heads, values.size // high))
    return spread.reshape(*shape[:-2], 1, values.size // high)


def _coded_body(body: Body, name: str, attributes: dict[str, Any], inputs: Mapping[str, str]) -> str:
    bits, scheme = attributes[f"{name}_bits"], attributes["v_scheme" if name == "v" else "qk_scheme"]
    given = [
        _by_head_body(body, v, name, attributes["heads"])
        for v in operand.present(inputs, (f"{name}_scale", f"{name}_zero"))
    ]
    if name == "v" and scheme == "token" and bits:
        scheme, given = "uniform", list(row_range_body(body, name, bits, COLUMNS))
    return operand.fake_body(body, name, given, scheme=scheme, bits=bits, options={})


def _scores_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> str:
    q, k = (_coded_body(body, name, attributes, inputs) for name in ("q", "k"))
    flipped = body("Transpose", k, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = body("MatMul", body("Mul", q, body.number(attributes["scale"])), flipped)
    for name in operand.present(inputs, ("bias", "mask")):
        scores = body("Add", scores, name)
    if "rel_h" in inputs:
        both = body(
            "Add",
            body("Unsqueeze", "rel_h", body.integers([-1])),
            body("Unsqueeze", inputs["rel_w"], body.integers([-2])),
        )
        scores = body("Add", scores, body.reshape(both, body.shape(scores, 0)))
    return scores


def _body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    scores = _scores_body(body, attributes, inputs, rank)
    last = body.integers([-1])
    if attributes["softmax_norm"]:
        top = body("Max", body("ReduceMax", scores, last), body.number(-LARGEST))
        weights = body("Exp", body("Sub", scores, top))
    else:
        softmax = body("Softmax", scores, axis=-1)
        weights = body.positive(softmax) if not body.differentiable else body.unless_nan(softmax, softmax)
    given = operand.present(inputs, ("p0", "p1", "p2"))
    held = operand.fake_body(
        body, weights, given, scheme=attributes["softmax_scheme"], bits=attributes["p_bits"], options=SOFTMAX
    )
    y = body("MatMul", held, _coded_body(body, "v", attributes, inputs))
    if attributes["softmax_norm"]:
        total = body.one_place(body("ReduceSum", held, last))
        y = body("Div", y, body("Where", body("Equal", total, body.number(0)), body.number(1), total))
    body("Identity", y, out="y")


def _scores(
    q: F32, k: F32, added: Sequence[Array | None], rel: Sequence[Array | None], scale: float
) -> NDArray[np.float64]:
    scores = (q.astype(np.float64) * scale) @ np.swapaxes(k.astype(np.float64), -1, -2)
    for term in added:
        if term is not None:
            scores = scores + term
    rel_h, rel_w = rel
    if rel_h is not None and rel_w is not None:
        scores = scores + (rel_h[..., :, None] + rel_w[..., None, :]).reshape(scores.shape)
    return scores


def reference(q: F32, k: F32, v: F32, *optional: Array | None, **attributes: Any) -> F32:
    """Sums and softmax in float64; codes are computed from float32 numbers."""
    given = SPEC.complete(attributes)
    given_inputs: list[Array | None] = [*optional, *[None] * (len(SPEC.inputs) - 3 - len(optional))]
    mask, bias, rel_h, rel_w, *scales = given_inputs
    held = []
    for i, (name, x) in enumerate((("q", q), ("k", k), ("v", v))):
        bits, scheme = given[f"{name}_bits"], given["v_scheme" if name == "v" else "qk_scheme"]
        params = [None if a is None else _by_head(a, x.shape, given["heads"]) for a in scales[2 * i : 2 * i + 2]]
        if name == "v" and scheme == "token" and bits:
            scheme, params = "uniform", list(row_range(x, bits, COLUMNS))
        held.append(operand.fake(x, params, scheme=scheme, bits=bits, options={}))
    with np.errstate(all="ignore"):
        scores = _scores(held[0], held[1], (bias, mask), (rel_h, rel_w), given["scale"])
        weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), -LARGEST))
        if not given["softmax_norm"]:
            weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1)
        coded = operand.fake(
            weights.astype(np.float32),
            scales[6:],
            scheme=given["softmax_scheme"],
            bits=given["p_bits"],
            options=SOFTMAX,
        ).astype(np.float64)
        y = coded @ held[2].astype(np.float64)
        if given["softmax_norm"]:
            total = coded.sum(-1, keepdims=True)
            y = y / np.where(total == 0, 1, total)
    return y.astype(np.float32)


SPEC = OpSpec(
    name="QAttention",
    inputs=("q", "k", "v", "mask?", "bias?", "rel_h?", "rel_w?", *CODED, "p0?", "p1?", "p2?"),
    outputs=("y",),
    attributes={
        "q_bits": None,
        "k_bits": None,
        "v_bits": None,
        "p_bits": None,
        "qk_scheme": "uniform",
        "v_scheme": "uniform",
    }
    | {"softmax_scheme": "uniform", "softmax_norm": 0, "scale": 1.0, "heads": 1},
    body=_body,
    reference=reference,
    doc="P = softmax(scale * (q^ k^T) + bias + mask + rel), y = P^ v^, for q [..., n, d], k [..., m, d], v [..., m, "
    "e] of equal leading "
    "dimensions, which flattened are batch * heads. rel[i, j] = rel_h[i, j / W] + rel_w[i, j % W], W being the width "
    "of rel_w. Static "
    "scales and zeros are single numbers or one per head, for v also one per head and channel; `token` takes q's and "
    "k's from their rows, "
    "v's from its columns. "
    "P is coded by `softmax_scheme` with inputs p0..; with `softmax_norm` 1 the coded weights are exp(score - the "
    "row's maximum) and y is "
    "divided by the sum of the decoded ones. A row that is masked everywhere gives 0. 0 bits leave an operand float.",
    types=("float",) * 7 + ("float", "uint8") * 3 + operand.TYPES,
)
