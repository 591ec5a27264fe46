"""Evaluate one node in NumPy with ONNX's reference implementations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxptq.graph.hidden import show
from onnxptq.graph.nested import bodies

UNSTEADY = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Ops whose output does not depend on their inputs alone."""


def proto_of(node: gs.Node) -> onnx.NodeProto:
    """The node as an ONNX message."""
    proto: onnx.NodeProto = OnnxExporter.export_node(node)
    show(proto)
    return proto


def has_subgraph(node: gs.Node) -> bool:
    """Whether the node is control flow (If, Loop, Scan ...)."""
    return bool(bodies(node))


def evaluate(
    node: gs.Node, inputs: Sequence[NDArray[Any] | None], *, opsets: Mapping[str, int]
) -> list[NDArray[Any]] | None:
    """Outputs of a node for given inputs (None for an absent one); None if NumPy cannot compute them."""
    if node.op in UNSTEADY or has_subgraph(node):
        return None
    fast = _FAST.get(node.op) if node.domain in ("", None, "ai.onnx") else None
    if fast is not None and inputs and inputs[0] is not None:
        try:
            done = fast(node, inputs[0])
        except (KeyError, TypeError, ValueError):
            return None  # a malformed node: the runtime reports it
        if done is not None:
            return [done]
    proto = proto_of(node)
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    del proto.input[:]
    proto.input.extend(names)
    outputs = [f"o{k}" if tensor.name else "" for k, tensor in enumerate(node.outputs)]
    del proto.output[:]
    proto.output.extend(outputs)
    empty = [onnx.helper.make_empty_tensor_value_info(n) for n in names if n]
    graph = onnx.helper.make_graph(
        [proto], "one", empty, [onnx.helper.make_empty_tensor_value_info(n) for n in outputs if n]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in opsets.items()])
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:
        # The reference covers nearly all of ONNX; other nodes stay in the graph.
        return None
    if not all(isinstance(r, (np.ndarray, np.generic)) and np.asarray(r).dtype.kind not in "OSU" for r in results):
        return None
    made = iter(results)
    return [np.asarray(next(made)) if name else np.zeros(0) for name in outputs]


def _cast(node: gs.Node, x: NDArray[Any]) -> NDArray[Any] | None:
    target = node.attrs["to"]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(target) if isinstance(target, int) else np.dtype(target)
    if x.dtype.kind not in "biuf" or dtype.kind not in "biuf":
        return None
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(dtype))


_FAST: dict[str, Callable[[gs.Node, NDArray[Any]], NDArray[Any] | None]] = {
    "Identity": lambda node, x: x,
    "Transpose": lambda node, x: np.transpose(x, node.attrs.get("perm")),
    "Cast": _cast,
}
"""Ops evaluated directly, without a model: they are frequent, or their tensors are large."""
