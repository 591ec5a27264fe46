"""Inline local functions and raise the standard operator set, on a skeleton without the large weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter

from onnxptq.errors import InputError
from onnxptq.graph import schemas
from onnxptq.graph.canonical.decompose import DECOMPOSED, decompose
from onnxptq.graph.dataflow.partial_values import LIMIT
from onnxptq.graph.model import Model
from onnxptq.graph.nested import protos

OPSET = 21
CONTRIB = "com.microsoft"
EARLY = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})
"""Ops that onnxruntime adds to the standard domain of every opset; ONNX has the first one since 17."""


def modernise(model: Model) -> Model:
    """The model with inlined functions and opset 21 or later. Large weights never pass through protobuf."""
    if not model.functions and model.opset >= OPSET and not any(("", n.op) in DECOMPOSED for n in model.graph.nodes):
        return model
    proto, weights = _skeleton(model)
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
        except Exception as error:
            raise InputError(f"the model's local functions cannot be inlined: {_line(error)}") from error
        schemas.check(proto.graph.node, proto.opset_import, frozenset(), "the model with its functions inlined")
    if model.opset < OPSET:
        try:
            proto = _converted(proto)
        except Exception as error:
            strange = next((n.op for n in model.graph.nodes if not (n.domain or onnx.defs.has(n.op))), "")
            why = f"ONNX has no op {strange!r}" if strange else _line(error)
            raise InputError(
                f"the model cannot be converted from opset {model.opset} to {OPSET}: {why}; export it anew "
                f"with opset 17 or later"
            ) from error
    proto = decompose(proto)
    modern = Model.from_proto(proto)
    modern.metadata, modern.tensors, modern.notes = model.metadata, model.tensors, model.notes
    tensors = modern.graph.tensors()
    for name, values in weights.items():
        if name in tensors:
            tensors[name].to_constant(values)
    modern.graph.inputs = [t for t in modern.graph.inputs if t.name not in weights]
    return modern


def _converted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the model to opset ``OPSET``.

    The converter stops at standard ops that ONNX does not know, but ignores ops of other domains.
    """
    nodes = [node for graph in protos(proto.graph) for node in graph.node if node.op_type in EARLY]
    early = [node for node in nodes if node.domain in ("", "ai.onnx")]
    for node in early:
        node.domain = CONTRIB
    if early and CONTRIB not in {opset.domain for opset in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
    made: onnx.ModelProto = onnx.version_converter.convert_version(proto, OPSET)
    for graph in protos(made.graph):
        for node in graph.node:
            if node.op_type in EARLY:
                node.domain = ""
    return made


def _skeleton(model: Model) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model as protobuf with large constants replaced by inputs, and those constants."""
    bare = model.copy()
    weights: dict[str, Any] = {}
    for constant in list(bare.constants()):
        if constant.name not in model.tensors and int(np.prod(constant.shape)) > LIMIT:
            weights[constant.name] = constant._values
            constant.to_variable(constant.export_dtype, constant.shape)
            constant.type = "tensor_type"
            bare.graph.inputs.append(constant)
    return bare.to_proto(), weights


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
