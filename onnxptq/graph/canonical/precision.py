"""Compute half-precision models in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.elements import element_type
from onnxptq.graph.edit import replace_reads
from onnxptq.graph.model import Model
from onnxptq.graph.nested import graphs

HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def widen(model: Model) -> bool:
    """Turn float16 and bfloat16 into float32; inputs and outputs of the graph keep their types through casts."""
    graph = model.graph
    inputs, outputs = ([t for t in side if element_type(t) in HALF] for side in (graph.inputs, graph.outputs))
    outer = {id(t) for t in (*inputs, *outputs)}
    inside = any(element_type(t) in HALF for t in graph.tensors().values() if id(t) not in outer)
    open_ends = any(n.op != "Cast" for t in inputs for n in t.outputs) or any(
        n.op != "Cast" for t in outputs for n in t.inputs
    )
    if (
        not inside
        and not open_ends
        and not any(_makes_half(n) for n in graph.nodes if not any(id(t) in outer for t in n.outputs))
    ):
        return False
    for part in graphs(graph):
        _widen_graph(part, outer)
    for tensor in inputs:
        wide = gs.Variable(model.unique(f"{tensor.name}_f32"), dtype=np.dtype(np.float32), shape=tensor.shape)
        replace_reads(tensor, wide)
        name = model.unique(f"{tensor.name}_to_f32")
        graph.nodes.insert(
            0, gs.Node("Cast", name=name, attrs={"to": onnx.TensorProto.FLOAT}, inputs=[tensor], outputs=[wide])
        )
    for tensor in outputs:
        if len(tensor.inputs) == 1:
            maker = tensor.inputs[0]
            wide = gs.Variable(model.unique(f"{tensor.name}_f32"), dtype=np.dtype(np.float32), shape=tensor.shape)
            maker.outputs = [wide if t is tensor else t for t in maker.outputs]
            replace_reads(tensor, wide)
            name = model.unique(f"{tensor.name}_to_half")
            graph.nodes.append(
                gs.Node("Cast", name=name, attrs={"to": element_type(tensor)}, inputs=[wide], outputs=[tensor])
            )
    model.notes.append("computes in half precision: calibrated and quantized in float32")
    return True


def _widen_graph(graph: gs.Graph, outer: set[int]) -> None:
    for tensor in graph.tensors().values():
        if id(tensor) in outer or element_type(tensor) not in HALF:
            continue
        if isinstance(tensor, gs.Constant):
            tensor.values = np.asarray(tensor.values).astype(np.float32)
            tensor.export_dtype = None
        else:
            tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        for key, attribute in node.attrs.items():
            if isinstance(attribute, gs.Constant) and element_type(attribute) in HALF:
                attribute.values = np.asarray(attribute.values).astype(np.float32)
            elif key in ("to", "dtype") and _element(attribute) in HALF:
                node.attrs[key] = onnx.TensorProto.FLOAT


def _makes_half(node: gs.Node) -> bool:
    return any(_element(node.attrs.get(key)) in HALF for key in ("to", "dtype")) or (
        isinstance(node.attrs.get("value"), gs.Constant) and element_type(node.attrs["value"]) in HALF
    )


def _element(to: Any) -> int:
    if to is None or isinstance(to, int):
        return int(to or 0)
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to)))
