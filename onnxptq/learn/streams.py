"""The tensors of all samples in the original and in the quantized graph, carried from unit to unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxptq.calibration.shelf import Shelf
from onnxptq.graph.reduce import reads
from onnxptq.learn.coding import Hook
from onnxptq.learn.executor import Executor
from onnxptq.learn.tensors import from_array


class Stream:
    """One graph and the tensors of each sample that later units need.

    ``weights`` replaces constants by name; ``hooks`` holds the edges whose scale was learned.
    """

    def __init__(self, name: str, proto: onnx.ModelProto, count: int, shelf: Shelf, device: str) -> None:
        self.executor = Executor(proto, device=device)
        self.weights: dict[str, Tensor] = {}
        self.hooks: dict[str, Hook] = {}
        self.seen: dict[str, Tensor] = {}
        self.count = count
        self._name, self._shelf = name, shelf
        self._makers = {out: node for node in proto.graph.node for out in node.output if out}
        self._held: set[str] = set()

    def start(self, index: int, sample: Mapping[str, NDArray[Any]]) -> None:
        """Keep the inputs of a sample."""
        for name in self.executor.inputs:
            self._shelf.put((self._name, index, name), sample[name])
            self._held.add(name)

    def advance(self, wanted: Sequence[str], later: Sequence[str]) -> None:
        """Compute tensors of every sample from those that are held; keep what ``later`` tensors need."""
        new = [name for name in wanted if name not in self._held]
        before = set(self._held)
        for index in range(self.count):
            if new:
                with torch.no_grad():
                    feeds = self.at(index, sorted(self._needed(new)))
                    found = self.executor({**feeds, **self.weights}, new, hooks=self.hooks)
                for name, value in found.items():
                    self._shelf.put((self._name, index, name), value.cpu().numpy())
        self._held |= set(new)
        needed = self._needed(later) | set(wanted)
        for name in (before | set(new)) - needed:
            for index in range(self.count):
                self._shelf.drop((self._name, index, name))
            self._held.discard(name)

    def at(self, index: int, names: Sequence[str]) -> dict[str, Tensor]:
        """Held tensors of one sample."""
        return {name: from_array(self._shelf.get((self._name, index, name))) for name in names}

    def _needed(self, names: Sequence[str]) -> set[str]:
        """Held tensors from which ``names`` are computed."""
        found: set[str] = set()
        pending, seen = list(names), set[str]()
        while pending:
            name = pending.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            if name in self._held:
                found.add(name)
            elif name in self._makers:
                pending += reads(self._makers[name])
        return found
