"""Programs: the nodes of a graph or function body as torch steps; each value is freed after its last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxptq.errors import InputError, one_line

Values = dict[str, Tensor | None]
Hook = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One node: a kernel with its attributes bound, or a whole program."""

    name: str
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    plain: frozenset[int] = frozenset()
    """Positions of inputs that the call takes as plain numbers."""

    def __call__(self, values: Values, device: torch.device) -> None:
        """Read the inputs from ``values`` and write the outputs there."""
        given = [values[name] if name else None for name in self.inputs]
        tensors = [x for i, x in enumerate(given) if i not in self.plain and x is not None]
        if device.type != "cpu" and any(x.device == device for x in tensors):
            given = [x if x is None or i in self.plain else x.to(device) for i, x in enumerate(given)]
        try:
            made = self.call(*(_numbers(x) if i in self.plain else x for i, x in enumerate(given)))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = ", ".join("none" if x is None else str(tuple(x.shape)) for x in given)
            raise InputError(
                f"torch executor: node {self.name!r} fails on inputs of shapes {shapes}: {one_line(error)}"
            ) from error
        results = made if isinstance(made, tuple | list) else (made,)
        for name, result in zip(self.outputs, results, strict=False):
            if name:
                values[name] = result


class Program:
    """Steps in order, and the constants they read."""

    def __init__(self, steps: Sequence[Step], constants: Mapping[str, Tensor], device: torch.device) -> None:
        self.steps, self.constants, self.device = steps, constants, device
        self._plans: dict[Any, list[tuple[Step, list[str]]]] = {}

    def run(self, values: Values, outputs: Sequence[str], hooks: Mapping[str, Hook]) -> list[Tensor]:
        """Compute ``outputs``; ``values`` holds the known values, and others are freed after their last use."""
        fed = frozenset(values)
        key = (fed, tuple(outputs))
        if key not in self._plans:
            self._plans[key] = self._plan(fed, outputs)
        for step, done in self._plans[key]:
            for name in step.inputs:
                if name in self.constants and name not in values:
                    values[name] = hooks[name](self.constants[name]) if name in hooks else self.constants[name]
            step(values, self.device)
            for name in step.outputs:
                held = values.get(name)
                if name in hooks and held is not None:
                    values[name] = hooks[name](held)
            for name in done:
                values.pop(name, None)
        found = [values.get(name, self.constants.get(name)) for name in outputs]
        missing = [name for name, value in zip(outputs, found, strict=True) if value is None]
        if missing:
            raise InputError(f"torch executor: nothing makes value {missing[0]!r}; give it among the inputs")
        return [value for value in found if value is not None]

    def _plan(self, fed: Collection[str], outputs: Sequence[str]) -> list[tuple[Step, list[str]]]:
        """The required steps, each with the values that have no later reader."""
        needed, chosen = set(outputs) - set(fed), []
        for step in reversed(self.steps):
            if needed & set(step.outputs):
                chosen.append(step)
                needed -= set(step.outputs)
                needed |= {name for name in step.inputs if name and name not in fed}
        absent = needed - set(self.constants) - set(fed)
        if absent:
            raise InputError(f"torch executor: nothing makes value {min(absent)!r}; give it among the inputs")
        readers = Counter(name for step in chosen for name in set(step.inputs))
        plan = []
        for step in reversed(chosen):
            readers.subtract(set(step.inputs))
            done = [
                name for name in {*step.inputs, *step.outputs} if name and not readers[name] and name not in outputs
            ]
            plan.append((step, done))
        return plan


def _numbers(x: Tensor | None) -> Any:
    """The elements of a tensor as a list."""
    return None if x is None else x.reshape(-1).tolist()
