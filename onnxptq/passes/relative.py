"""Constants other than keys that queries are multiplied by: tables of relative positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.dataflow.flow import moves, scaling
from onnxptq.graph.dataflow.trace import Numbers, Tracer
from onnxptq.graph.edit import set_constant
from onnxptq.graph.model import Model, value
from onnxptq.structure import Attention, Source


@dataclass(frozen=True)
class PositionTable:
    """A constant [..., d, n] that is the right operand of a product, or [..., d] moved into that form."""

    node: str
    """The node that reads the constant."""
    index: int
    """The index of its input."""
    direct: bool
    """Whether channels are the last axis but one, as in the product; otherwise the last."""

    def mix(self, model: Model, inverse: NDArray[np.float64]) -> None:
        """Let the product stay the same for queries multiplied by the transposed inverse of ``inverse``."""
        node = model.nodes()[self.node]
        held = np.asarray(value(node.inputs[self.index]), np.float64)
        set_constant(model, node, self.index, inverse @ held if self.direct else held @ inverse.T)


def tables(
    model: Model, attention: Attention, source: Source, start: str, tracer: Tracer
) -> tuple[PositionTable, ...] | str:
    """All readers of an attention's queries besides the scores, or why one of them is no product with a constant."""
    origin = model.tensor(start)
    mine = source.channels + 1
    found: list[PositionTable] = []
    for reader in tracer.readers(origin):
        numbers = tracer.channels(origin, reader.tensor)
        if numbers is None:
            return "what else reads its queries cannot be traced"
        if not np.isin(numbers, mine).any() or (reader.node is not None and _leads_to(reader.node, attention.qk)):
            continue
        node = reader.node
        if node is None or node.op != "MatMul" or node.inputs[0] is not reader.tensor:
            return "something else than a product with a constant reads its queries too"
        if not _whole(numbers.reshape(-1, numbers.shape[-1]), mine):
            return "something else reads parts of its queries"
        table = _table(node, tracer)
        if table is None:
            return f"what {node.name} multiplies its queries by is no constant"
        found.append(table)
    return tuple(dict.fromkeys(found))


def _whole(rows: Numbers, heads: NDArray[np.int64]) -> bool:
    """Whether each row that is not all zero equals one of ``heads`` [heads, dim], which share no channel."""
    if rows.shape[1] != heads.shape[1]:
        return not rows.any()
    behind = np.zeros((max(int(rows.max()), int(heads.max())) + 1, heads.shape[1]), rows.dtype)
    behind[heads[:, 0]] = heads
    return bool((rows == behind[rows[:, 0]]).all())


def _leads_to(node: gs.Node, product: str) -> bool:
    """Whether a node is the product, or a factor before it."""
    while node.name != product:
        if not scaling(node) or len(node.outputs[0].outputs) != 1:
            return False
        node = node.outputs[0].outputs[0]
    return True


def _table(node: gs.Node, tracer: Tracer) -> PositionTable | None:
    """The constant right operand of a product, as it is, or before moves of its last axis to the last but one."""
    right = node.inputs[1]
    if value(right) is not None:
        return PositionTable(node.name, 1, True)
    reader = node
    here = right
    while here.inputs and moves(here.inputs[0]) and here.inputs[0].op != "Concat":
        reader = here.inputs[0]
        here = reader.inputs[0]
    held = value(here)
    if held is None or held.ndim < 2:
        return None
    numbers = tracer.channels(here, right)
    wanted = np.arange(1, held.shape[-1] + 1)[:, None]
    if numbers is None or numbers.ndim < 2 or numbers.shape[-2] != held.shape[-1] or (numbers != wanted).any():
        return None
    return PositionTable(reader.name, 0, False)
