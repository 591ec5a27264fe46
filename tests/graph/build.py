"""Small models written as text, and what the graph tests ask of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.model import Model
from onnxptq.running.sessions import session

Arrays = dict[str, NDArray[Any]]


def model(text: str, *, opset: int = 17, **constants: NDArray[Any]) -> onnx.ModelProto:
    """A model of ``g (inputs) => (outputs) { nodes }`` with further initialisers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(proto)
    return proto


def run(proto: onnx.ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    """Outputs in onnxruntime, as written: no graph optimisation of its own."""
    return [np.asarray(y) for y in session(proto, executor="function", threads=1, optimize=False).run(None, feeds)]


def ops(held: Model) -> Counter[str]:
    """How many nodes of each op."""
    return Counter(node.op for node in held.graph.nodes)


def preserved(proto: onnx.ModelProto, feeds: Arrays, *, tolerance: float = 1e-5) -> Model:
    """The canonical form, checked: it is valid, says the same outputs, and is a fixed point."""
    held = canonicalise(Model.from_proto(proto))
    same(proto, held, feeds, tolerance=tolerance)
    again = canonicalise(held)
    assert ops(again) == ops(held)
    return held


def same(proto: onnx.ModelProto, held: Model, feeds: Arrays, *, tolerance: float = 1e-5) -> None:
    """Both compute the same, and the second is a valid model of the same interface."""
    done = held.to_proto()
    onnx.checker.check_model(done, full_check=True)
    assert [i.name for i in done.graph.input] == [i.name for i in proto.graph.input]
    assert [o.name for o in done.graph.output] == [o.name for o in proto.graph.output]
    for before, after in zip(run(proto, feeds), run(done, feeds), strict=True):
        assert before.shape == after.shape
        assert before.dtype == after.dtype
        scale = max(float(np.abs(before).max(initial=0.0)), 1e-6)
        assert float(np.abs(before.astype(np.float64) - after).max(initial=0.0)) <= tolerance * scale


def concrete(dim: int | str | None, sizes: Mapping[str, int]) -> int | None:
    """The number a dimension is for given sizes of its symbols; None where it is no product of them."""
    if dim is None or isinstance(dim, int):
        return dim
    total = 1
    for factor in dim.split("*"):
        if not factor.isdigit() and factor not in sizes:
            return None
        total *= int(factor) if factor.isdigit() else sizes[factor]
    return total


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
