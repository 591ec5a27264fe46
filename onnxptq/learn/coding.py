"""Quantized activations with gradients: the values of an edge, with a gradient to its input and to its scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxptq.calibration.edges import Edge
from onnxptq.ops.uniform import UniformParams

Hook = Callable[[Tensor], Tensor]
Drop = Callable[[Tensor], Tensor]


class Coding:
    """One edge. Codes of one static range learn their scale; other schemes pass the gradient on to their input."""

    def __init__(self, params: object, device: torch.device) -> None:
        self.scale: Tensor | None = None
        if isinstance(params, UniformParams) and params.scale.size == 1:
            self.scale = torch.tensor(float(params.scale.reshape(())), device=device)
            self._zero, self._top = float(params.zero.reshape(())), float(2**params.bits - 1)

    def __call__(self, x: Tensor, coded: Tensor) -> Tensor:
        """Quantized values of ``x``; ``coded`` are those of the graph, which other schemes keep."""
        if self.scale is None:
            return x + (coded - x).detach()
        ratio = x / self.scale
        rounded = ratio + (ratio.round() - ratio).detach()
        codes: Tensor = (rounded + self._zero).clamp(0, self._top)
        return (codes - self._zero) * self.scale

    def settle(self) -> None:
        """End learning: the scale is a number."""
        if self.scale is not None:
            self.scale = self.scale.detach()

    def hooks(self, edge: Edge, seen: dict[str, Tensor], drop: Drop | None = None) -> dict[str, Hook]:
        """Hooks for the edge's tensors, which share ``seen``. ``drop`` gives a mask of elements that stay float."""

        def remember(x: Tensor) -> Tensor:
            seen[edge.source] = x
            return x

        def replaced(values: Tensor) -> Tensor:
            x = seen[edge.source]
            if x.shape != values.shape:
                return values
            made = self(x, values)
            return made if drop is None else torch.where(drop(made), x, made)

        return {edge.source: remember, edge.coded: replaced}
