"""Shapes, types and shape values of every tensor in one walk; dynamic dimensions keep their symbols."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow import partial_values as partial
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.elements import constant_array, dtype_of, element_of, element_type
from onnxptq.graph.dataflow.flow import standard
from onnxptq.graph.dataflow.folding import Facts, follow, note
from onnxptq.graph.dataflow.partial_values import is_complete
from onnxptq.graph.dataflow.shape_rules import RULES, Shape
from onnxptq.graph.evaluate import has_subgraph, proto_of
from onnxptq.graph.model import Model
from onnxptq.graph.nested import bodies


def analyse(
    model: Model,
    *,
    inputs: Mapping[str, Sequence[Dim]] | None = None,
    weights: bool = False,
    room: float = math.inf,
) -> Facts:
    """Analyse the graph in one walk. ``inputs`` replaces input shapes.

    ``weights`` folds large constants too, up to ``room`` bytes.
    """
    walk = _Walk(model, weights, bool(inputs))
    facts = Facts(room=room)
    given = dict(inputs or {})
    for tensor in model.graph.inputs:
        shape = given.get(tensor.name, tensor.shape)
        note(facts, tensor.name, element_type(tensor), None if shape is None else tuple(shape))
    walk.through(model.graph, facts)
    return facts


class _Walk:
    """One walk through a graph and through the branches inside it."""

    def __init__(self, model: Model, weights: bool, resized: bool) -> None:
        self._model, self._weights, self._resized = model, weights, resized
        self._opsets = {"": model.opset} | {d.domain: d.version for d in model.graph.import_domains or () if d.domain}
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]

    def through(self, graph: gs.Graph, facts: Facts) -> None:
        """Record facts about every tensor of a graph."""
        for node in graph.nodes:
            for tensor in node.inputs:
                self._constant(tensor, facts)
            found = self._branches(node, facts) or _types(node, facts, self._opsets, self._imports)
            for tensor, (element, shape) in zip(node.outputs, found, strict=True):
                declared = tensor.shape if not self._resized else None
                note(facts, tensor.name, element or element_type(tensor), _merge(shape, declared))
            follow(node, facts, self._opsets, self._weights)

    def _constant(self, tensor: gs.Tensor, facts: Facts) -> None:
        if isinstance(tensor, gs.Constant) and tensor.name not in facts.shapes:
            note(facts, tensor.name, element_type(tensor), tuple(tensor.shape))
            if self._weights or math.prod(tensor.shape) <= partial.LIMIT:
                held = constant_array(tensor, self._model)
                if held is not None:
                    facts.values[tensor.name] = held

    def _branches(self, node: gs.Node, facts: Facts) -> list[tuple[int, Shape | None]] | None:
        """Facts on which both branches of an If agree, by output."""
        parts = bodies(node)
        if node.op != "If" or not standard(node) or len(parts) != 2:
            return None
        ways: list[list[tuple[int, Shape | None]]] = []
        for part in parts.values():
            inner = Facts(
                ChainMap({}, facts.shapes), ChainMap({}, facts.elements), ChainMap({}, facts.values), facts.room
            )
            self.through(part, inner)
            facts.room = inner.room
            for tensor in part.outputs:
                self._constant(tensor, inner)
            ways.append([(inner.elements.get(t.name, 0), inner.shapes.get(t.name)) for t in part.outputs])
        return [(one[0] if one[0] == two[0] else 0, _common(one[1], two[1])) for one, two in zip(*ways, strict=True)]


def infer(model: Model) -> None:
    """Write known shapes and types to the tensors of the graph."""
    write(model, analyse(model))


def write(model: Model, facts: Facts) -> None:
    """Write facts to the tensors of the main graph."""
    graph = model.graph
    fixed = {id(t) for t in graph.inputs}
    for tensor in [t for node in graph.nodes for t in node.outputs] + list(graph.outputs):
        if isinstance(tensor, gs.Variable) and tensor.name in facts.shapes and id(tensor) not in fixed:
            shape = facts.shapes[tensor.name]
            if facts.elements.get(tensor.name):
                tensor.dtype = dtype_of(facts.elements[tensor.name])
            if shape is not None:
                tensor.shape = list(shape)


def _merge(found: Shape | None, declared: Sequence[Dim] | None) -> Shape | None:
    """The more exact of two shapes, dimension by dimension; inferred sizes take precedence over declared ones."""
    if found is None or declared is None or len(found) != len(declared):
        return found if found is not None else None if declared is None else tuple(declared)
    return tuple(
        b if a is None or (isinstance(a, str) and isinstance(b, int)) else a
        for a, b in zip(found, declared, strict=True)
    )


def _common(one: Shape | None, two: Shape | None) -> Shape | None:
    """The shape that two tensors share."""
    if one is None or two is None or len(one) != len(two):
        return None
    return tuple(a if a == b else None for a, b in zip(one, two, strict=True))


def _types(
    node: gs.Node, facts: Facts, opsets: Mapping[str, int], imports: list[onnx.OperatorSetIdProto]
) -> list[tuple[int, Shape | None]]:
    """Element type and shape of each output, by the op's schema and our own rules."""
    unknown: list[tuple[int, Shape | None]] = [(0, None)] * len(node.outputs)
    own = RULES.get(node.op) if node.domain in ("", None, "ai.onnx") else None
    if own is not None:
        shapes = [facts.shapes.get(t.name) for t in node.inputs]
        values = [facts.values.get(t.name) for t in node.inputs]
        if shapes[0] is not None or node.op == "ConstantOfShape":
            found = own(shapes, values, node)
            if found is not None:
                source = node.attrs["value"].dtype if node.op == "ConstantOfShape" and "value" in node.attrs else None
                element = (
                    facts.elements.get(node.inputs[0].name, 0) if node.op != "ConstantOfShape" else element_of(source)
                )
                return [(element, found), *unknown[1:]]
    if has_subgraph(node) or any(t.name and not facts.elements.get(t.name) for t in node.inputs):
        return unknown
    try:
        schema = onnx.defs.get_schema(node.op, opsets.get(node.domain or "", 1), node.domain or "")
    except onnx.defs.SchemaError:
        return unknown
    types = {t.name: _type_proto(facts, t.name) for t in node.inputs if t.name}
    data = {}
    for tensor in node.inputs:
        value = facts.values.get(tensor.name)
        if value is not None and is_complete(value) and value.size <= partial.LIMIT and value.dtype.kind in "biuf":
            data[tensor.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), tensor.name)
    try:
        found_types = onnx.shape_inference.infer_node_outputs(
            schema, proto_of(node), types, data, opset_imports=imports
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        return unknown
    return [_read(found_types.get(t.name)) for t in node.outputs]


def _type_proto(facts: Facts, name: str) -> onnx.TypeProto:
    shape = facts.shapes[name]
    return onnx.helper.make_tensor_type_proto(facts.elements[name], None if shape is None else list(shape))


def _read(found: onnx.TypeProto | None) -> tuple[int, Shape | None]:
    if found is None or not found.HasField("tensor_type"):
        return 0, None
    tensor = found.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
    )
