"""Shapes, types and shape values of every tensor in one walk; dynamic dimensions keep their symbols."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow import partial_values as partial
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.elements import constant_array, dtype_of, element_of, element_type
from onnxptq.graph.dataflow.flow import standard
from onnxptq.graph.dataflow.partial_values import Value, is_complete
from onnxptq.graph.dataflow.shape_rules import RULES, Shape
from onnxptq.graph.evaluate import evaluate, has_subgraph, proto_of
from onnxptq.graph.model import Model
from onnxptq.graph.nested import bodies

SMALL = 1 << 20
"""Bytes by which a constant result may exceed its inputs."""
TABLE = 1 << 16
"""The same limit for gathers, which expand small tables to large constants (relative position terms)."""
COUNTED = frozenset({"NonZero", "Unique", "Compress"})
"""Ops whose output size is unknown, but no larger than that of their inputs."""
LEFT = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "Resize",
        "Upsample",
        "Conv",
        "ConvTranspose",
        "GridSample",
        "RoiAlign",
        "LSTM",
        "GRU",
        "RNN",
        "DFT",
        "STFT",
    }
)
"""Ops never folded: quantized values stay quantized, and NumPy's reference of the others is very slow."""


@dataclass
class Facts:
    """Known facts of a graph's tensors, by name."""

    shapes: MutableMapping[str, Shape | None] = field(default_factory=dict)
    elements: MutableMapping[str, int] = field(default_factory=dict)
    """Element types (onnx.TensorProto.DataType); 0 where unknown, and for sequences and the like."""
    values: MutableMapping[str, Value] = field(default_factory=dict)
    """Constants, and integer tensors that are at least partly known (see ``partial_values``)."""
    room: float = math.inf
    """Bytes that folded constants may still take."""


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
        _note(facts, tensor.name, element_type(tensor), None if shape is None else tuple(shape))
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
                _note(facts, tensor.name, element or element_type(tensor), _merge(shape, declared))
            _follow(node, facts, self._opsets, self._weights)

    def _constant(self, tensor: gs.Tensor, facts: Facts) -> None:
        if isinstance(tensor, gs.Constant) and tensor.name not in facts.shapes:
            _note(facts, tensor.name, element_type(tensor), tuple(tensor.shape))
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


def _note(facts: Facts, name: str, element: int, shape: Shape | None) -> None:
    if name:
        facts.shapes[name] = shape
        facts.elements[name] = element


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


def _follow(node: gs.Node, facts: Facts, opsets: Mapping[str, int], weights: bool) -> None:
    """Values of the outputs, if all inputs are constant or the op computes shapes."""
    values = [facts.values.get(t.name) if t.name else None for t in node.inputs]
    results: Sequence[Value | None]
    if all(v is not None and is_complete(v) for v, t in zip(values, node.inputs, strict=True) if t.name) and not _grows(
        node, facts, values
    ):
        found = evaluate(node, values, opsets=opsets)
        results = found if found is not None else [None] * len(node.outputs)
        facts.room -= sum(
            result.nbytes
            for result in results
            if result is not None and not any(v is not None and np.may_share_memory(result, v) for v in values)
        )
    else:
        shapes: list[partial.Shape] = [facts.shapes.get(t.name) for t in node.inputs]
        results = partial.known_values(node, values, shapes)
    for tensor, result in zip(node.outputs, results, strict=True):
        if result is None or not tensor.name or not (weights or result.size <= partial.LIMIT):
            continue
        element = facts.elements.get(tensor.name)
        if is_complete(result):
            if element and result.dtype.kind in "iu" and dtype_of(element) != result.dtype:
                result = result.astype(dtype_of(element))
            _note(facts, tensor.name, int(onnx.helper.np_dtype_to_tensor_dtype(result.dtype)), result.shape)
        facts.values[tensor.name] = result


def _grows(node: gs.Node, facts: Facts, values: Sequence[Value | None]) -> bool:
    """Whether the result would be a large constant made from small ones, or has an unknown size."""
    if node.op in LEFT or facts.room <= 0:
        return True
    given = sum(v.nbytes for v in values if v is not None)
    for tensor in node.outputs:
        shape = facts.shapes.get(tensor.name)
        if shape is None or any(not isinstance(d, int) for d in shape):
            if given > SMALL or not (node.op in COUNTED or _short(node, values)):
                return True
            continue
        width = np.dtype(
            np.float64 if not facts.elements.get(tensor.name) else dtype_of(facts.elements[tensor.name])
        ).itemsize
        count = math.prod(d for d in shape if isinstance(d, int)) * width
        if count > max(2 * given, TABLE if node.op.startswith("Gather") else SMALL):
            return True
    return False


def _short(node: gs.Node, values: Sequence[Value | None]) -> bool:
    """Whether the node is a short Range."""
    if node.op != "Range" or len(values) != 3 or any(v is None or v.size != 1 for v in values):
        return False
    start, limit, step = (float(v.reshape(())) for v in values if v is not None)
    return step != 0 and (limit - start) / step * 8 <= SMALL
