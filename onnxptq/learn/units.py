"""Units: the parts of a graph that are reconstructed one after the other, in the order of the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxptq.calibration.residuals import Residuals
from onnxptq.graph.reduce import reads

FUSED = frozenset({"Gelu", "Relu"})
"""Activation functions that belong to the layer before them."""


@dataclass(frozen=True)
class Unit:
    """Layers that are learned together: from ``inputs`` to ``output``, both names of tensors."""

    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    nodes: frozenset[str] = frozenset()
    """All nodes in between."""


class Parts:
    """Cuts a graph into units. ``layers`` maps each layer to learn, in graph order, to its output tensor."""

    def __init__(self, proto: onnx.ModelProto, layers: Mapping[str, str]) -> None:
        self._layers = dict(layers)
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}
        self._place = {node.name: index for index, node in enumerate(proto.graph.node)}
        self._constants = {tensor.name for tensor in proto.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in dict.fromkeys(reads(node)):
                self._readers.setdefault(name, []).append(node)
        self._proto = proto

    def single(self) -> list[Unit]:
        """One unit a layer."""
        return [self._unit({name}, self._after(output), frozenset()) for name, output in self._layers.items()]

    def blocks(self) -> list[Unit]:
        """One unit for all layers between two sums of a residual stream (attention, MLP); other layers alone."""
        residuals = Residuals(self._proto)
        ends, cut = {}, set[str]()
        for name in self._layers:
            found = residuals.of(name)
            if found is not None:
                ends[name] = found
                sums = [node for node in self._readers[found.moved] if found.stream in node.input]
                cut |= {found.stream, *(node.output[0] for node in sums)}
        done: set[str] = set()
        made = []
        for name in ends:
            if name in done:
                continue
            members = self._members(self._layers[name], cut, done)
            done |= members
            made.append(self._unit(members, self._layers[name], cut))
        made += [
            self._unit({name}, self._after(output), frozenset())
            for name, output in self._layers.items()
            if name not in done
        ]
        return sorted(made, key=lambda unit: self._place[self._makers[unit.output].name])

    def _after(self, output: str) -> str:
        """The output of the activation function that alone reads a layer's output, or that output."""
        behind = self._readers.get(output, [])
        return behind[0].output[0] if len(behind) == 1 and behind[0].op_type in FUSED else output

    def _members(self, output: str, cut: Collection[str], done: Collection[str]) -> set[str]:
        """Layers before ``output`` that no unit has, up to the cuts."""
        found: set[str] = set()
        pending, seen = [output], set[str]()
        while pending:
            name = pending.pop()
            if name in seen or name in cut or name not in self._makers:
                continue
            seen.add(name)
            node = self._makers[name]
            if node.name in done:
                continue
            if node.name in self._layers:
                found.add(node.name)
            pending += reads(node)
        return found

    def _unit(self, members: Collection[str], output: str, cut: Collection[str]) -> Unit:
        """The unit of some layers: what it reads is cut at tensors that none of its layers makes."""
        depends = Depends(self._makers, members)
        inputs: dict[str, None] = {}
        nodes: set[str] = set()
        pending, seen = [output], set[str]()
        while pending:
            name = pending.pop()
            if not name or name in seen or name in self._constants:
                continue
            seen.add(name)
            node = self._makers.get(name)
            if node is None or (name != output and (name in cut or not depends(name))):
                inputs[name] = None
                continue
            nodes.add(node.name)
            pending += reads(node)
        ordered = sorted(members, key=self._place.__getitem__)
        known = {name for name in inputs if not self._fixed(name)}
        return Unit(tuple(ordered), tuple(sorted(known)), output, frozenset(nodes))

    def _fixed(self, name: str) -> bool:
        """Whether a tensor depends on constants alone."""
        pending, seen = [name], set[str]()
        while pending:
            here = pending.pop()
            if not here or here in seen or here in self._constants:
                continue
            seen.add(here)
            node = self._makers.get(here)
            if node is None:
                return False
            pending += reads(node)
        return True


class Depends:
    """Whether a tensor depends on one of some nodes."""

    def __init__(self, makers: Mapping[str, onnx.NodeProto], nodes: Collection[str]) -> None:
        self._makers, self._nodes = makers, set(nodes)
        self._known: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        """Found once for each tensor, without recursion."""
        pending = [name]
        while pending:
            here = pending[-1]
            node = self._makers.get(here)
            if here in self._known:
                pending.pop()
            elif node is None or node.name in self._nodes:
                self._known[here] = node is not None
            else:
                names: Sequence[str] = [read for read in reads(node) if read]
                open_ = [read for read in names if read not in self._known]
                if open_:
                    pending += open_
                    continue
                self._known[here] = any(self._known[read] for read in names)
        return self._known[name]
