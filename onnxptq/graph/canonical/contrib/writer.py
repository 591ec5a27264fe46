"""Writer: reads a node's inputs and attributes and creates the ops that replace it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike, NDArray

from onnxptq.graph.canonical.rewrite import Miss
from onnxptq.graph.edit import append, producer
from onnxptq.graph.model import Model, value
from onnxptq.graph.nested import fresh

DOMAIN = "com.microsoft"


class Writer:
    """One node to expand: its inputs by position, and a function call for each new op."""

    def __init__(self, model: Model, node: gs.Node) -> None:
        self._model, self.node = model, node
        self._names = model.names()

    def __call__(self, op: str, *inputs: gs.Tensor | None, **attrs: Any) -> gs.Tensor:
        """Create a node; return its first output."""
        return append(self._model, op, _plain(inputs), base=f"{self.node.name}/{op}", **attrs)

    def split(self, x: gs.Tensor, sizes: Sequence[int], axis: int) -> list[gs.Tensor]:
        """Split ``x`` into parts of these sizes."""
        first = append(self._model, "Split", [x, self.ints(*sizes)], base=f"{self.node.name}/Split", axis=axis)
        made = producer(first)
        assert made is not None
        others = [gs.Variable(self._model.unique(f"{first.name}_{i}")) for i in range(1, len(sizes))]
        made.outputs = [first, *others]
        return [first, *others]

    def number(self, x: ArrayLike, dtype: Any = np.float32) -> gs.Constant:
        """A constant."""
        return gs.Constant(fresh(f"{self.node.name}/constant", self._names), np.asarray(x, dtype))

    def ints(self, *numbers: int) -> gs.Constant:
        """A constant vector of integers, for axes and shapes."""
        return self.number(numbers, np.int64)

    def like(self, x: gs.Tensor, number: float) -> gs.Tensor:
        """A constant of the type of ``x``."""
        return self("CastLike", self.number(number), x)

    def input(self, index: int) -> gs.Tensor | None:
        """An optional input, or None."""
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) and inputs[index].name else None

    def required(self, index: int) -> gs.Tensor:
        """A required input."""
        tensor = self.input(index)
        if tensor is None:
            raise Miss(f"input {index} is missing")
        return tensor

    def attr(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.node.attrs.get(name, default)

    def rank(self, x: gs.Tensor) -> int:
        """The number of axes of ``x``; Miss if unknown."""
        if x.shape is None:
            raise Miss("an input of unknown rank")
        return len(x.shape)

    def array(self, x: gs.Tensor) -> NDArray[Any]:
        """The values of a constant; Miss where ``x`` is not constant."""
        held = value(x)
        if held is None:
            raise Miss(f"{x.name} is not constant")
        return held

    def wants(self, index: int) -> bool:
        """Whether an output has readers."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].name)


Expansion = Callable[[Writer], Sequence[gs.Tensor | None]]
"""Returns the outputs of an expansion, None for outputs it does not write; raises Miss where it cannot expand."""


def _plain(inputs: Sequence[gs.Tensor | None]) -> list[gs.Tensor]:
    """Inputs with empty tensors for absent ones, and none at the end."""
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return [gs.Variable.empty() if tensor is None else tensor for tensor in kept]
