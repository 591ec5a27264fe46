"""Normalise a model read from a file, or refuse it in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx

from onnxptq.errors import InputError
from onnxptq.graph.nested import protos

LAYOUTS = frozenset({"com.microsoft.nchwc"})
"""Domains of onnxruntime ops for one kind of processor."""
DENSE = 1 << 28
"""Maximum number of elements of a sparse tensor that is made dense."""


def tidy(proto: onnx.ModelProto, name: str) -> list[str]:
    """Normalise ``proto`` in place; return notes on lost information.

    Negative sizes become dynamic, sparse constants dense, metadata text. Attributes that refer to function arguments
    outside of a function, and layouts of one processor, are an InputError.
    """
    for graph in protos(proto.graph):
        for node in graph.node:
            _check(node, name)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                    dense = _dense(attribute.sparse_tensor, name)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.t.CopyFrom(dense)
        graph.initializer.extend(_dense(held, name) for held in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for said in (*graph.input, *graph.output, *graph.value_info):
            for dim in said.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 0:
                    dim.ClearField("dim_value")
    return _as_text(proto)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model except the initialisers of its main graph."""
    for graph in protos(proto.graph):
        if graph is not proto.graph:
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors


def _check(node: onnx.NodeProto, name: str) -> None:
    where = f"{name}: {node.op_type} {node.name or next(iter(node.output), '')!r}"
    if node.domain in LAYOUTS:
        raise InputError(
            f"{where} has the memory layout of one processor; save the optimized model again with "
            f"GraphOptimizationLevel.ORT_ENABLE_EXTENDED at most, or give the model before optimization"
        )
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise InputError(
                f"{where}: attribute {attribute.name!r} refers to {attribute.ref_attr_name!r}, an argument of a "
                f"function, but the node is in no function; export the model again"
            )


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    """A sparse tensor made dense."""
    if math.prod(sparse.dims) > DENSE:
        raise InputError(f"{name}: sparse tensor {sparse.values.name!r} of shape {list(sparse.dims)} is too large")
    try:
        values = onnx.numpy_helper.to_array(sparse.values)
        places = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(list(sparse.dims), values.dtype)
        if places.ndim == 1:
            dense.reshape(-1)[places] = values
        else:
            dense[tuple(places.T)] = values
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{name}: sparse tensor {sparse.values.name!r} cannot be read: {error}") from error
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def _as_text(proto: onnx.ModelProto) -> list[str]:
    """Decode bytes as UTF-8 with bad characters replaced; protobuf returns bytes where text is not UTF-8."""
    lost: list[str] = []
    held = [(entry.key, entry.value) for entry in proto.metadata_props]
    plain = [tuple(t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in pair) for pair in held]
    if plain != held:
        lost = [f"metadata {key!r} is not UTF-8: its unreadable characters were replaced" for key, _ in plain][:1]
        del proto.metadata_props[:]
        for key, text in plain:
            proto.metadata_props.add(key=key, value=text)
    for graph in protos(proto.graph):
        for said in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            if isinstance(said.doc_string, bytes):
                said.ClearField("doc_string")
    return lost
