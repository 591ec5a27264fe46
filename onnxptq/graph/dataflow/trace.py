"""Channel tracing: channel numbers sent through ops that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.flow import data_inputs, moves
from onnxptq.graph.dataflow.partial_values import is_complete
from onnxptq.graph.dataflow.shapes import analyse
from onnxptq.graph.edit import producer
from onnxptq.graph.evaluate import evaluate
from onnxptq.graph.model import Model

Numbers = NDArray[np.int32]
"""Channel numbers start at 1; 0 marks elements of no channel (padding, constants)."""


@dataclass(frozen=True)
class Reader:
    """A node that reads moved elements and does more than move them. ``node`` is None for an output of the graph."""

    tensor: gs.Tensor
    node: gs.Node | None


class Tracer:
    """Traces through one graph at concrete sizes of its dynamic dimensions."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._facts = analyse(model, inputs=sample_shapes(model))
        self._opsets = {"": model.opset}
        self._outputs = {id(t) for t in model.graph.outputs}
        self._traced: tuple[str, int, dict[str, Numbers]] = ("", 0, {})

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """The shape at the sizes traced with."""
        shape = self._facts.shapes.get(tensor.name)
        return (
            tuple(int(d) for d in shape if isinstance(d, int))
            if shape is not None and all(isinstance(d, int) for d in shape)
            else None
        )

    def origin(self, tensor: gs.Tensor) -> list[gs.Tensor]:
        """The tensors whose elements ``tensor`` consists of, before all moves (constants left out)."""
        found: dict[str, gs.Tensor] = {}
        stack, seen = [tensor], set()
        while stack:
            here = stack.pop()
            if here.name in seen or isinstance(here, gs.Constant):
                continue
            seen.add(here.name)
            node = producer(here)
            if node is not None and moves(node):
                stack += data_inputs(node)
            else:
                found[here.name] = here
        return [found[name] for name in sorted(found)]

    def readers(self, tensor: gs.Tensor) -> list[Reader]:
        """Readers of ``tensor`` after all moves, in the order they are found."""
        found: list[Reader] = []
        stack, seen = [tensor], set()
        while stack:
            here = stack.pop()
            if here.name in seen:
                continue
            seen.add(here.name)
            if id(here) in self._outputs:
                found.append(Reader(here, None))
            for node in {id(n): n for n in here.outputs}.values():
                if moves(node) and any(here is t for t in data_inputs(node)):
                    stack += node.outputs
                elif node.op not in ("Shape", "Size"):
                    found.append(Reader(here, node))
        return found

    def follow(self, start: gs.Tensor, numbers: Numbers, target: gs.Tensor) -> Numbers | None:
        """The numbers in ``target`` when ``start`` holds ``numbers``; None if unknown."""
        return self._numbers(target, {start.name: numbers})

    def channels(self, start: gs.Tensor, target: gs.Tensor, *, axis: int = -1) -> Numbers | None:
        """``follow`` with channel numbers along one axis of ``start``."""
        shape = self.shape(start)
        if not shape:
            return None
        count = shape[axis]
        line: list[int] = [1] * len(shape)
        line[axis] = count
        numbers = np.broadcast_to(np.arange(1, count + 1, dtype=np.int32).reshape(line), shape)
        if self._traced[:2] != (start.name, axis):
            # Callers ask for several targets per start; one start may reach large tensors: cache the last.
            self._traced = (start.name, axis, {start.name: numbers})
        return self._numbers(target, self._traced[2])

    def _numbers(self, tensor: gs.Tensor, known: dict[str, Numbers]) -> Numbers | None:
        if tensor.name in known:
            return known[tensor.name]
        shape = self.shape(tensor)
        node = producer(tensor)
        if isinstance(tensor, gs.Constant):
            return np.zeros(tensor.shape, dtype=np.int32)
        if shape is None or node is None or not moves(node):
            return None
        arrays: list[NDArray[Any] | None] = []
        data = data_inputs(node)
        for index, source in enumerate(node.inputs):
            if any(source is t for t in data):
                moved = self._numbers(source, known)
                if moved is None:
                    return None
                arrays.append(moved)
            elif (node.op == "Pad" and index == 2) or not source.name:
                arrays.append(None)
            else:
                value = self._facts.values.get(source.name)
                if value is None and isinstance(source, gs.Constant):
                    value = np.asarray(source.values)
                if value is None or not is_complete(value):
                    return None
                arrays.append(value)
        results = evaluate(node, arrays, opsets=self._opsets)
        if results is None:
            return None
        for output, result in zip(node.outputs, results, strict=True):
            known[output.name] = result
        return known[tensor.name]


def sample_shapes(model: Model) -> dict[str, Sequence[Dim]]:
    """Shapes to trace with: a dynamic batch becomes two, to tell batch from heads."""
    chosen: dict[str, int] = {}
    shapes: dict[str, Sequence[Dim]] = {}
    for tensor in model.graph.inputs:
        if tensor.shape is None:
            continue
        shape: list[Dim] = []
        for index, dim in enumerate(tensor.shape):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            size = 2 if index == 0 else 64 if len(tensor.shape) == 4 else 5
            shape.append(chosen.setdefault(dim, size) if isinstance(dim, str) else size)
        shapes[tensor.name] = shape
    return shapes


def heads(numbers: Numbers) -> NDArray[np.int64] | None:
    """Map [heads, dim] to channels from 0, for an operand [..., N, d] with leading axes batch, windows, heads.

    None unless each (head, dim) holds the same channel at every token of every batch.
    """
    if numbers.ndim < 2 or numbers.size == 0:
        return None
    rows = numbers.reshape(-1, *numbers.shape[-2:])
    top = rows.max(axis=1)
    if not np.all((rows == top[:, None]) | (rows == 0)) or np.any(top == 0):
        return None
    again = np.flatnonzero(np.all(top[1:] == top[0], axis=1))
    period = int(again[0]) + 1 if again.size else len(top)
    if len(top) % period or np.any(top.reshape(-1, period, top.shape[1]) != top[:period]):
        return None
    return np.asarray(top[:period], dtype=np.int64) - 1


def columns(numbers: Numbers) -> NDArray[np.int64] | None:
    """Channel number of each position of the last axis, -1 for none; None unless all tokens agree."""
    flat = numbers.reshape(-1, numbers.shape[-1])
    top = flat.max(axis=0) if flat.size else np.zeros(numbers.shape[-1], dtype=np.int32)
    if not np.all((flat == top) | (flat == 0)):
        return None
    return np.asarray(top, dtype=np.int64) - 1


def is_padded(numbers: Numbers) -> bool:
    """Whether some tokens consist of padding only."""
    return bool(np.any(numbers.reshape(-1, numbers.shape[-1]).max(axis=1) == 0))
