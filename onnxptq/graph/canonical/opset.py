"""Local functions inlined and the standard operator set raised, on a skeleton without the large weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter

from onnxptq.errors import InputError
from onnxptq.graph.canonical.decompose import DECOMPOSED, decompose
from onnxptq.graph.dataflow.partial_values import LIMIT
from onnxptq.graph.model import Model
from onnxptq.graph.nested import protos

OPSET = 21
CONTRIB = "com.microsoft"
EARLY = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 2**31}
"""Ops of onnxruntime in the standard domain, and the operator set in which ONNX has them."""


def modernise(model: Model) -> Model:
    """The model with its functions inlined and at least opset 21. Large weights never pass through protobuf."""
    if not model.functions and model.opset >= OPSET and not any(("", n.op) in DECOMPOSED for n in model.graph.nodes):
        return model
    proto, weights = _skeleton(model)
    _move_early_ops(proto)
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
        except Exception as error:
            raise InputError(f"the model's local functions cannot be inlined: {_line(error)}") from error
    if model.opset < OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        except Exception as error:
            raise InputError(
                f"the model cannot be converted from opset {model.opset} to {OPSET}: {_line(error)}; export it anew "
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


def _move_early_ops(proto: onnx.ModelProto) -> None:
    """Give ops that onnxruntime knew as standard ones before ONNX did to its own domain: the converter stops at
    them."""
    version = {opset.domain: opset.version for opset in proto.opset_import}.get("", OPSET)
    known = {op for op, since in EARLY.items() if since <= version}
    for graph in protos(proto.graph):
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type in EARLY and node.op_type not in known:
                node.domain = CONTRIB
                if CONTRIB not in {opset.domain for opset in proto.opset_import}:
                    proto.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))


def _skeleton(model: Model) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model as protobuf with large constants turned into inputs, and those constants."""
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
