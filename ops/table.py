"""Scheme ``table``: 2^bits freely placed values, each an int8 times one scale, so that products stay int8 products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxptq.ops import edges
from onnxptq.ops.body import FLOAT, INT32, LARGEST, UINT8, Body
from onnxptq.ops.pair import define_pair
from onnxptq.ops.product import Term
from onnxptq.ops.scheme import F32, FLOATS, INT8S, Array, Codes, Options, Params, Scheme
from onnxptq.ops.uniform import SMALLEST

CELLS = 8
"""Cells in a unit of the table, where edges lie between cells."""
REACH = 128 * CELLS
"""Cells on either side of 0."""
BENDS = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True, eq=False)
class TableParams(Params):
    """Ascending values by code in units of ``scale``; ascending ``edges`` between them: code = number of edges <= x."""

    values: NDArray[np.int8] = field(metadata=INT8S)
    scale: F32 = field(metadata=FLOATS)
    edges: F32 = field(metadata=FLOATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.values.shape == (2**self.bits,), f"values must be {2**self.bits} numbers")
        self.require(self.edges.shape == (2**self.bits - 1,), f"edges must be {2**self.bits - 1} numbers")
        self.require(self.scale.shape == () and bool(self.scale > 0), "scale must be one positive number")
        self.require(
            bool((np.diff(self.values.astype(np.int16)) >= 0).all() and (np.diff(self.edges) >= 0).all()),
            "values must ascend",
        )

    def attributes(self) -> dict[str, int | str]:
        """True if edges lie between cells, so that a division and a look-up find a code."""
        return {"cells": CELLS if self._between_cells() else 0}

    def _between_cells(self) -> bool:
        below, above = (_cell(e, self.scale) for e in (np.nextafter(self.edges, np.float32(-np.inf)), self.edges))
        return bool(self.scale >= SMALLEST * CELLS and (below < above).all() and (np.abs(above) < REACH).all())


def table(levels: ArrayLike, bits: int, *, largest: int = 127) -> TableParams:
    """The table nearest to these 2^bits levels, with edges halfway between them.

    ``largest`` is the greatest magnitude of a stored value: 31 keeps the fast products of machines without VNNI.
    """
    wanted = np.sort(np.asarray(levels, np.float64))
    scale = np.float32(np.clip(np.abs(wanted).max(initial=0.0) / largest, SMALLEST, LARGEST / 128))
    values = np.clip(np.rint(wanted / np.float64(scale)), -largest, largest).astype(np.int8)
    placed = values.astype(np.float64) * np.float64(scale)
    return TableParams(bits, values, np.asarray(scale), ((placed[1:] + placed[:-1]) / 2).astype(np.float32))


def _cell(x: F32, scale: F32) -> F32:
    with np.errstate(all="ignore"):
        return np.asarray(np.rint(x / (scale / np.float32(CELLS))), np.float32)


def between_cells(p: TableParams) -> TableParams:
    """The table with its edges between cells: each moves by a sixteenth of a unit, to the first number of a cell."""
    wanted = _cell(p.edges, p.scale)
    edges = ((wanted.astype(np.float64) - 0.5) * (float(p.scale) / CELLS)).astype(np.float32)
    while (short := _cell(edges, p.scale) < wanted).any():
        edges = np.where(short, np.nextafter(edges, np.float32(np.inf)), edges)
    while (far := _cell(before := np.nextafter(edges, np.float32(-np.inf)), p.scale) >= wanted).any():
        edges = np.where(far, before, edges)
    return TableParams(p.bits, p.values, p.scale, edges)


class Table(Scheme[TableParams]):
    """Freely placed values, for inputs of Linear and Conv up to 6 bits."""

    name = "table"
    params = TableParams
    doc = (
        "value = values[code] * scale; edges ascend, code = the number of edges <= x. `cells` 8 promises that every "
        "edge is the least number with its rint(x / (scale / 8))."
    )
    inputs = ("values", "scale", "edges")
    attributes: ClassVar[Mapping[str, int | str]] = {"cells": 0}
    ops = "Table"

    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """The number of edges <= x."""
        return edges.count_edges(x, inputs[2])

    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """The table times the scale."""
        return np.asarray((inputs[0].astype(np.float32) * inputs[1])[codes], np.float32)

    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """The number of edges <= x."""
        if not options["cells"] or body.differentiable:
            return edges.count_edges_body(body, x, inputs[2], bits)
        cell, codes = _cells_body(body, x, inputs)
        return edges.look_up_body(body, codes, cell)

    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """The table times the scale."""
        return edges.look_up_body(body, body("Mul", body.cast(inputs[0], FLOAT), inputs[1]), codes)

    def terms_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> tuple[Term, ...]:
        """The table's values plus 128."""
        shifted = body.cast(body("Add", body.cast(inputs[0], INT32), body.integer(128)), UINT8)
        if options["cells"]:
            codes, cells = _cells_body(body, x, inputs)
            shifted = body("GatherElements", shifted, cells)
        else:
            codes = self.codes_body(body, x, inputs, bits, options)
        values = edges.look_up_body(body, shifted, codes)
        return (Term(values, body.byte(128), inputs[1], 8),)

    def codes_input(self, body: Body, codes: str) -> str:
        """Codes as indices."""
        return edges.codes_input(body, codes)

    def grid(self, low: float, high: float, bits: int) -> Iterator[TableParams]:
        """Levels over the range, increasingly dense near 0: starting points for Lloyd's steps."""
        span = np.linspace(min(low, 0.0), max(high, 0.0), 2**bits)
        largest = max(float(np.abs(span).max()), SMALLEST)
        for bend in BENDS:
            yield table(np.sign(span) * largest * np.abs(span / largest) ** bend, bits)


def _cells_body(body: Body, x: str, inputs: Sequence[str]) -> tuple[str, str]:
    """The cell of each number as INT32, and the code of each cell, which is computed once in a session."""
    scale = body("Div", body("Squeeze", inputs[1]), body.number(CELLS))
    cell = body.cast(body("QuantizeLinear", x, scale, body.integer(REACH, "uint16")), INT32)
    last = body.integer(2 * REACH - 1)
    middles = body("Range", body.integer(-REACH), body.integer(REACH), body.integer(1))
    middles = body("Mul", body.cast(middles, FLOAT), scale)
    reached = body("GreaterOrEqual", body("Unsqueeze", middles, body.integers([-1])), inputs[2])
    codes = body("ReduceSum", body.cast(reached, INT32), body.integers([-1]), keepdims=0)
    return body("Min", cell, last), codes


QUANTIZE, DEQUANTIZE = define_pair("table", ("int8", "float", "float"))
