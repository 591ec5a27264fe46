"""Model: a mutable graph (onnx-graphsurgeon inside), and its conversion to a ModelProto."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxptq.graph.data import NUMPY_HOLDS
from onnxptq.graph.hidden import hide, show_all
from onnxptq.graph.nested import fresh, graphs, hoist, protos, taken
from onnxptq.graph.sent import Sent
from onnxptq.version import __version__

# graphsurgeon prints its own remarks to stderr, where users expect one line from us.
G_LOGGER.severity = G_LOGGER.CRITICAL

IR_VERSION = 10


@dataclass
class Model:
    """A graph with unique node and tensor names, owned by whoever changes it."""

    graph: gs.Graph
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    """Initialisers of types NumPy does not have (INT4), by the name of their placeholder constant in the graph."""
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = field(default_factory=dict)
    """Model-local functions by (domain, name, overload)."""
    metadata: dict[str, str] = field(default_factory=dict)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    """Types of sequences, optionals and sparse tensors."""
    notes: list[str] = field(default_factory=list)
    """Changes on loading that users should know about, one sentence each."""
    room: float | None = None
    """Bytes that folded constants may still take; None before the first folding."""
    doc: str = ""
    """The model's doc string."""

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto) -> Model:
        """A working copy of ``proto``; its functions are kept."""
        functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
        bare = onnx.ModelProto()
        bare.CopyFrom(proto)
        del bare.functions[:]
        _strip(bare)
        types = hide(bare)
        graph = gs.import_onnx(bare)
        graph.functions.clear()
        for imported in proto.opset_import:
            if imported.domain not in {d.domain for d in graph.import_domains or ()}:
                graph.import_domains = [*(graph.import_domains or ()), imported]
        return cls(graph, {}, functions, {p.key: p.value for p in proto.metadata_props}, types, doc=proto.doc_string)

    def to_proto(self) -> onnx.ModelProto:
        """A ModelProto of the current state, opset imports and overloads included."""
        proto: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        proto.ir_version = max(IR_VERSION, 10)
        hoist(self.graph, proto.graph)
        show_all(proto, self.types)
        for index, tensor in enumerate(proto.graph.initializer):
            if tensor.name in self.tensors:
                proto.graph.initializer[index].CopyFrom(self.tensors[tensor.name])
        proto.functions.extend(self.functions.values())
        del proto.opset_import[:]
        domains = {"": self.opset} | {d.domain: d.version for d in self.graph.import_domains or () if d.domain}
        domains |= {domain: 1 for domain, _, _ in self.functions if domain not in domains}
        proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(domains.items()))
        for key, value in self.metadata.items():
            proto.metadata_props.add(key=key, value=value)
        proto.producer_name, proto.producer_version, proto.doc_string = "onnxptq", __version__, self.doc
        return proto

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process as its message."""
        return _received, (Sent(self.to_proto),)

    def copy(self) -> Model:
        """An independent copy (constants are shared until replaced: never write into an array in place)."""
        held = dict(self.tensors), dict(self.functions), dict(self.metadata), dict(self.types)
        return Model(self.graph.copy(), *held, list(self.notes), self.room, self.doc)

    def restore(self, state: Model) -> None:
        """Become a copy of an earlier state."""
        vars(self).update(vars(state.copy()))

    def nodes(self) -> dict[str, gs.Node]:
        """Nodes of the main graph by name."""
        return {node.name: node for node in self.graph.nodes}

    def tensor(self, name: str) -> gs.Tensor:
        """The tensor of that name."""
        tensor: gs.Tensor = self.graph.tensors()[name]
        return tensor

    def constants(self) -> Iterator[gs.Constant]:
        """Every constant of the main graph, once."""
        for tensor in self.graph.tensors().values():
            if isinstance(tensor, gs.Constant):
                yield tensor

    def inner_constants(self) -> Iterator[gs.Constant]:
        """Every constant that graphs inside nodes read."""
        for graph in graphs(self.graph):
            if graph is not self.graph:
                yield from (tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant))

    def names(self) -> set[str]:
        """Names of all nodes and tensors, those inside nodes included."""
        return taken(self.graph)

    def unique(self, base: str) -> str:
        """A name not yet in use, starting with ``base``."""
        return fresh(base, self.names())


def _received(sent: Sent) -> Model:
    return Model.from_proto(sent())


def is_readable(constant: gs.Constant) -> bool:
    """Whether NumPy has a constant's type.

    Text, and floats and integers of less than 8 bits, would be lost on export.
    """
    return not isinstance(constant._values, LazyValues) or constant._values.tensor.data_type in NUMPY_HOLDS


def _strip(proto: onnx.ModelProto) -> None:
    """Drop trailing absent inputs from every node: some of them crash onnxruntime."""
    for graph in protos(proto.graph):
        for node in graph.node:
            while node.input and not node.input[-1]:
                del node.input[-1]


def value(tensor: gs.Tensor) -> NDArray[Any] | None:
    """The array of a constant (initialiser or Constant node); None if NumPy does not have its type."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values) if is_readable(tensor) else None
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        held = tensor.inputs[0].attrs.get("value")
        return np.asarray(held.values) if held is not None and is_readable(held) else None
    return None


def scalar(tensor: gs.Tensor) -> float | None:
    """The value of a constant of one element, else None."""
    array = value(tensor)
    return float(array.reshape(())) if array is not None and array.size == 1 else None
