"""A graph cut into stages at chosen nodes, and a stream of all samples carried from stage to stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxptq.calibration.shelf import Shelf
from onnxptq.calibration.sources.source import Source
from onnxptq.errors import InputError, one_line
from onnxptq.graph.reduce import reads
from onnxptq.graph.sent import Sent
from onnxptq.running import sessions as runtime

Array = NDArray[Any]


@dataclass(frozen=True)
class Replaced:
    """The new weight of a node, and the term added to its output."""

    weight: Array
    shift: Array


class Stages:
    """Stage 0 needs no target; stage s holds the targets with s - 1 others before them on the longest path.

    A stage also holds the nodes up to the next targets. Nodes that depend on constants alone belong to every stage that
    reads them. ``keep`` names inputs that stay to the end, like the graph's outputs.
    """

    def __init__(self, proto: onnx.ModelProto, targets: Iterable[str], *, keep: Iterable[str] = ()) -> None:
        self.proto, self.targets = proto, frozenset(targets)
        graph = proto.graph
        initialised = {held.name for held in graph.initializer}
        self._declared = {given.name: given for given in graph.input if given.name not in initialised}
        self.inputs = list(self._declared)
        self.outputs = [output.name for output in graph.output]
        self._constants = {held.name: held for held in graph.initializer}
        self._maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
        self._reads = [tuple(reads(node)) for node in graph.node]
        self.of: dict[str, int] = dict.fromkeys(self.inputs, 0)
        """The stage that computes each varying tensor."""
        self.nodes: list[list[int]] = [[]]
        self.last: dict[str, int] = {}
        """The last stage that reads each varying tensor."""
        for index, node in enumerate(graph.node):
            before = [self.of[name] for name in self._reads[index] if name in self.of]
            if not before:
                continue
            stage = max(before) + (node.name in self.targets)
            while len(self.nodes) <= stage:
                self.nodes.append([])
            self.nodes[stage].append(index)
            self.of |= {name: stage for name in node.output if name}
            self.last |= {name: max(stage, self.last.get(name, 0)) for name in self._reads[index] if name in self.of}
        self.last |= dict.fromkeys([*self.outputs, *keep], len(self.nodes))

    def __reduce__(self) -> tuple[Any, ...]:
        kept = [name for name, last in self.last.items() if last == len(self.nodes) and name not in self.outputs]
        return _received, (Sent(partial(_copied, self.proto)), self.targets, kept)

    def __len__(self) -> int:
        return len(self.nodes)

    def at(self, stage: int) -> list[str]:
        """Names of the targets of a stage, in graph order."""
        return [node.name for index in self.nodes[stage] if (node := self.proto.graph.node[index]).name in self.targets]

    def fed(self, stage: int) -> list[str]:
        """Tensors that a stage reads from earlier ones."""
        made = {name for index in self.nodes[stage] for name in self.proto.graph.node[index].output}
        found = (
            name for index in self._whole(stage) for name in self._reads[index] if name in self.of and name not in made
        )
        return list(dict.fromkeys(found))

    def left(self, stage: int) -> list[str]:
        """Tensors that a stage computes for later ones."""
        made = [name for index in self.nodes[stage] for name in self.proto.graph.node[index].output if name]
        return [name for name in (*(self.inputs if stage == 0 else ()), *made) if self.last.get(name, -1) > stage]

    def _whole(self, stage: int) -> list[int]:
        """A stage's nodes, and those between constants and them."""
        found, stack = set(self.nodes[stage]), list(self.nodes[stage])
        while stack:
            for name in self._reads[stack.pop()]:
                index = self._maker.get(name, -1)
                if index >= 0 and name not in self.of and index not in found:
                    found.add(index)
                    stack.append(index)
        return sorted(found)

    def model(
        self, stage: int, types: Mapping[str, onnx.TypeProto], replaced: Mapping[str, Replaced]
    ) -> onnx.ModelProto:
        """A stage as a model, with weights ``replaced`` by node name.

        Graph inputs keep their declarations; other inputs have these ``types``.
        """
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, onnx.TensorProto] = {}
        for index in self._whole(stage):
            node = onnx.NodeProto()
            node.CopyFrom(self.proto.graph.node[index])
            nodes.append(node)
            change = replaced.get(node.name)
            if change is not None:
                weight, shift, bare = f"{node.name}__weight", f"{node.name}__shift", f"{node.name}__bare"
                constants[weight] = numpy_helper.from_array(change.weight, weight)
                constants[shift] = numpy_helper.from_array(change.shift, shift)
                node.input[1] = weight
                output, node.output[0] = node.output[0], bare
                nodes.append(helper.make_node("Add", [bare, shift], [output], name=f"{node.name}__add"))
        constants |= {name: self._constants[name] for node in nodes for name in reads(node) if name in self._constants}
        model = onnx.ModelProto(ir_version=self.proto.ir_version)
        model.opset_import.extend(self.proto.opset_import)
        model.functions.extend(self.proto.functions)
        model.graph.name = f"stage {stage}"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants.values())
        for name in self.fed(stage):
            model.graph.input.append(self._declared.get(name) or helper.make_value_info(name, types[name]))
        model.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in self.left(stage) if name not in self.inputs
        )
        return model


Sizes = Mapping[str, tuple[int, tuple[int | None, ...]]]
"""Element type and sizes of tensors between stages; a size is declared if all samples share it."""


class Stream:
    """Samples on their way through the stages of one graph; only tensors that later stages read are kept."""

    def __init__(self, name: str, stages: Stages, source: Source, shelf: Shelf, *, threads: int | None = None) -> None:
        self.name, self.stages, self.source, self.shelf, self._threads = name, stages, source, shelf, threads
        self.replaced: dict[str, Replaced] = {}
        """Weights that replace the graph's own, by node name."""
        self._next = 0
        self._held: list[str] = []

    def value(self, sample: int, name: str) -> Array:
        """A tensor of one sample that the finished stages keep for later ones."""
        return self.shelf.get((self.name, sample, name))

    def holds(self, name: str) -> bool:
        """Whether ``value`` has this tensor."""
        return name in self._held

    def shape(self, sample: int, name: str) -> tuple[int, ...]:
        """The shape of ``value``."""
        return self.shelf.shapes[self.name, sample, name]

    def advance(self, indices: range, sizes: Sizes) -> Iterator[Sizes]:
        """Run the next stage, whose inputs have these ``sizes``; yield those of its results after each sample."""
        stage, stages = self._next, self.stages
        fed, left = stages.fed(stage), stages.left(stage)
        session, names = None, [name for name in left if name not in stages.inputs]
        for index, feed in self._feeds(stage, fed, indices):
            found: dict[str, tuple[int, tuple[int | None, ...]]] = {}
            if names:
                try:
                    if session is None:
                        model = stages.model(stage, _types(sizes), self.replaced)
                        session = runtime.session(model, threads=self._threads)
                    made = session.run(names, {name: feed[name] for name in fed})
                except Exception as error:
                    raise InputError(
                        f"calibration sample {index}: onnxruntime cannot run the model: {one_line(error)}"
                    ) from error
                for name, array in zip(names, made, strict=True):
                    self.shelf.put((self.name, index, name), array)
                    found[name] = helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            yield found
        self._held = [*self._held, *left]
        for name in [name for name in self._held if stages.last[name] <= stage]:
            self._held.remove(name)
            for index in indices:
                self.shelf.drop((self.name, index, name))
        self._next += 1

    def _feeds(self, stage: int, names: Sequence[str], indices: range) -> Iterator[tuple[int, Mapping[str, Array]]]:
        if stage:
            for index in indices:
                yield index, {name: self.value(index, name) for name in names}
            return
        for index, sample in self.source.chosen(indices):
            for name in self.stages.left(0):
                if name in self.stages.inputs:
                    self.shelf.put((self.name, index, name), sample[name])
            yield index, sample


def joined(before: Sizes, more: Sizes) -> Sizes:
    """The sizes of the same tensors on more samples."""
    return {
        name: (kind, tuple(a if a == b else None for a, b in zip(before[name][1], sizes, strict=True)))
        if name in before
        else (kind, sizes)
        for name, (kind, sizes) in more.items()
    }


def _types(sizes: Sizes) -> dict[str, onnx.TypeProto]:
    """onnxruntime reads a vector of sizes as empty if its length is not declared."""
    return {name: helper.make_tensor_type_proto(kind, list(shape)) for name, (kind, shape) in sizes.items()}


def _copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    return other


def _received(sent: Sent, targets: Iterable[str], keep: Iterable[str]) -> Stages:
    return Stages(sent(), targets, keep=keep)
