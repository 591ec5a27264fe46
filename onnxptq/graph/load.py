"""Load a model of any size from a path, bytes or a ModelProto; bad input is an error of one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.external_data_helper import uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxptq.errors import InputError
from onnxptq.graph import data, validity
from onnxptq.graph.model import Model
from onnxptq.graph.nested import protos
from onnxptq.graph.scopes import unshadow
from onnxptq.graph.source import Source, parse, readable
from onnxptq.graph.tidy import tensors, tidy

ELSEWHERE = "elsewhere"
"""Marks a tensor whose data is not in the message."""


def load(source: Source, *, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """Load a model with one copy of its weights in memory. ``shapes`` fixes input shapes."""
    proto, path, name = parse(source)
    with readable(name):
        validity.check(proto, name)
        notes = tidy(proto, name)
        for tensor in (*proto.graph.initializer, *tensors(proto)):
            data.check(tensor, name)
        for tensor in tensors(proto):
            if uses_external_data(tensor):
                tensor.CopyFrom(data.inlined(tensor, path, name))
        _plain_nodes(proto)
        unshadow(proto.graph)
        model = _imported(proto, path, name)
        model.notes += notes
        _fix_shapes(model, shapes or {}, name)
        return model


def _imported(proto: onnx.ModelProto, path: Path | None, name: str) -> Model:
    """Import the graph; large tensors bypass the protobuf message."""
    arrays = {t.name: data.take(t, path, name) for t in proto.graph.initializer if data.is_heavy(t)}
    bare = onnx.ModelProto()
    for message in ("ir_version", "producer_name", "doc_string", "opset_import", "metadata_props", "functions"):
        _move(proto, bare, message)
    for message in ("node", "name", "input", "output", "value_info", "doc_string"):
        _move(proto.graph, bare.graph, message)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            bare.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=ELSEWHERE
            )
        else:
            bare.graph.initializer.append(data.inlined(tensor, path, name))
    del proto
    model = Model.from_proto(bare)
    for tensor in (*model.constants(), *model.inner_constants()):
        if isinstance(tensor._values, LazyValues) and tensor._values.tensor.doc_string == ELSEWHERE:
            tensor.values = arrays[tensor.name]
    initialised = {t.name for t in model.constants()}
    model.graph.inputs = [t for t in model.graph.inputs if t.name not in initialised]
    model.graph.toposort()
    return model


def _plain_nodes(proto: onnx.ModelProto) -> None:
    """Merge the two names of the standard domain, and drop empty list attributes, which lose their type."""
    for imported in proto.opset_import:
        imported.domain = _plain(imported.domain)
    for graph in protos(proto.graph):
        for node in graph.node:
            node.domain = _plain(node.domain)
            for index in range(len(node.attribute) - 1, -1, -1):
                one = node.attribute[index]
                kinds = {onnx.AttributeProto.INTS: np.int64, onnx.AttributeProto.FLOATS: np.float32}
                if one.type not in kinds or one.ints or one.floats:
                    continue
                kind = kinds[one.type]
                del node.attribute[index]  # equivalent to none
                if node.op_type == "Constant":
                    nothing = onnx.numpy_helper.from_array(np.zeros(0, kind))
                    node.attribute.append(onnx.helper.make_attribute("value", nothing))


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _move(old: Any, new: Any, field: str) -> None:
    value = getattr(old, field)
    if hasattr(value, "extend"):
        getattr(new, field).extend(value)
    else:
        setattr(new, field, value)


def _fix_shapes(model: Model, shapes: Mapping[str, Sequence[int]], name: str) -> None:
    inputs = {t.name: t for t in model.graph.inputs}
    for key, wanted in shapes.items():
        if key not in inputs:
            near = difflib.get_close_matches(key, list(inputs), 1)
            raise InputError(
                f"--shape {key}: {name} has no such input"
                + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(inputs)}")
            )
        tensor: gs.Tensor = inputs[key]
        given = [int(d) for d in wanted]
        declared = list(tensor.shape) if tensor.shape is not None else [None] * len(given)
        text = ",".join(str(d) if d is not None else "?" for d in declared)
        if len(given) != len(declared) or any(
            isinstance(d, int) and d != g for d, g in zip(declared, given, strict=False)
        ):
            raise InputError(f"--shape {key}={','.join(map(str, given))}: does not fit the input's shape {text}")
        if any(d < 1 for d in given):
            raise InputError(f"--shape {key}={','.join(map(str, given))}: sizes must be at least 1")
        symbols = {d: g for d, g in zip(declared, given, strict=True) if isinstance(d, str)}
        for other in model.graph.inputs:
            if other.shape is not None:
                other.shape = [symbols.get(d, d) if isinstance(d, str) else d for d in other.shape]
        tensor.shape = given
    if shapes:
        # Shapes that the exporter declared belong to other input sizes.
        for tensor in [t for node in model.graph.nodes for t in node.outputs]:
            tensor.shape = None
