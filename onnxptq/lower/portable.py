"""Format ``portable``: the native model with every function inlined to standard ops."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import inliner

from onnxptq.graph.model import Model
from onnxptq.lower import Constants, native
from onnxptq.lower.writer import Lowered
from onnxptq.plan import Plan
from onnxptq.structure import Structure


def lower(model: Model, structure: Structure, plan: Plan, *, constants: Constants = "fp16") -> Lowered:
    """Lower to the arithmetic of ``native`` in standard ops.

    Convolutions multiply in floats: with ``ConvInteger`` OpenVINO 2026.4 had a small CNN at 34 dB that has 70 dB in
    onnxruntime.
    """
    lowered = native.with_ops(model, structure, plan, constants=constants, in_floats=frozenset({"QConv"}))
    weights = list(lowered.proto.graph.initializer)
    del lowered.proto.graph.initializer[:]  # the inliner serialises the whole model: 2 GB of weights would fail
    proto: onnx.ModelProto = inliner.inline_local_functions(lowered.proto)
    proto.graph.initializer.extend(weights)
    for index, imported in enumerate(proto.opset_import):
        if imported.domain == "onnxptq":
            del proto.opset_import[index]
            break
    return replace(lowered, proto=proto)
