"""Codes as a number of edges: how a static code with freely placed values is found, exactly and without transcendental
functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops.body import INT32, Body
from onnxptq.ops.scheme import F32


def count_edges(x: F32, edges: F32, *, descending: bool = False) -> NDArray[np.uint8]:
    """How many of the ascending edges are <= x, or how many of the descending ones are >= x; NaN gives 0."""
    found: NDArray[Any] = (
        edges.size - np.searchsorted(edges[::-1], x) if descending else np.searchsorted(edges, x, side="right")
    )
    return np.where(np.isnan(x), 0, found).astype(np.uint8)


def count_edges_body(body: Body, x: str, edges: str, bits: int, *, descending: bool = False) -> str:
    """``count_edges`` of 2^bits - 1 edges in standard ops: a search of ``bits`` steps, as INT32."""
    code = body.integer(0)
    for step in (1 << bit for bit in reversed(range(bits))):
        ahead = body("Slice", edges, body.integers([step - 1]), body.integers([1 << bits]))
        passed = body(
            "GreaterOrEqual", *((body("Gather", ahead, code), x) if descending else (x, body("Gather", ahead, code)))
        )
        code = body("Where", passed, body("Add", code, body.integer(step)), code)
    return code


def codes_input(body: Body, codes: str) -> str:
    """Codes as indices."""
    return body.cast(codes, INT32)
