"""Static codes of freely placed values, found by counting edges: exact, without transcendental functions."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops.body import INT32, UINT8, Body
from onnxptq.ops.scheme import F32

COMPARED = 3
"""The leading bits of a code that are found by comparisons with all edges."""


def count_edges(x: F32, edges: F32, *, descending: bool = False) -> NDArray[np.uint8]:
    """How many of the ascending edges are <= x, or how many of the descending ones are >= x; NaN gives 0."""
    found: NDArray[Any] = (
        edges.size - np.searchsorted(edges[::-1], x) if descending else np.searchsorted(edges, x, side="right")
    )
    return np.where(np.isnan(x), 0, found).astype(np.uint8)


def count_edges_body(body: Body, x: str, edges: str, bits: int, *, descending: bool = False) -> str:
    """``count_edges`` of 2^bits - 1 edges in standard ops, as INT32: comparisons with a few edges, then a search.

    A step of the search costs onnxruntime four comparisons. It looks edges up in a vector, by GatherElements: its
    Gather copies every element as a block.
    """
    count = 1 << bits
    step = count >> min(bits, COMPARED)
    flat = body("Reshape", x, body.integers([-1]))
    passed = [
        body.cast(_passed(body, flat, body("Gather", edges, body.integer(i - 1)), descending), UINT8)
        for i in range(step, count, step)
    ]
    code = body.cast(functools.reduce(lambda a, b: body("Add", a, b), passed), INT32)
    if step > 1:
        code = body("Mul", code, body.integer(step))
    while step > 1:
        step >>= 1
        ahead = body("Slice", edges, body.integers([step - 1]), body.integers([count]))
        more = body.cast(_passed(body, flat, body("GatherElements", ahead, code), descending), INT32)
        code = body("Add", code, body("Mul", more, body.integer(step)) if step > 1 else more)
    return body.reshape(code, body.shape(x, 0))


def _passed(body: Body, x: str, edge: str, descending: bool) -> str:
    return body("GreaterOrEqual", edge, x) if descending else body("GreaterOrEqual", x, edge)


def look_up_body(body: Body, table: str, codes: str) -> str:
    """Entries of a vector, by code."""
    flat = body("GatherElements", table, body("Reshape", codes, body.integers([-1])))
    return body.reshape(flat, body.shape(codes, 0))


def codes_input(body: Body, codes: str) -> str:
    """Codes as indices."""
    return body.cast(codes, INT32)
