"""The public API: its names, its docstrings, and its cheap import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import onnxptq

PUBLIC = [
    "ArtifactError",
    "InputError",
    "Plan",
    "Quantizer",
    "Recipe",
    "Report",
    "Result",
    "Structure",
    "__version__",
    "library_path",
    "session",
]


def test_names() -> None:
    assert onnxptq.__all__ == PUBLIC
    assert dir(onnxptq) == PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        onnxptq.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_documented_and_annotated(name: str) -> None:
    held = getattr(onnxptq, name)
    assert held.__doc__
    members = (
        [held]
        if inspect.isfunction(held)
        else [m for n, m in vars(held).items() if inspect.isfunction(m) and not n.startswith("_")]
    )
    for member in members:
        assert member.__doc__, member
        signature = inspect.signature(member)
        assert signature.return_annotation is not inspect.Signature.empty, member
        assert all(
            p.annotation is not inspect.Parameter.empty
            for n, p in signature.parameters.items()
            if n not in ("self", "cls")
        ), member


def test_importing_loads_no_heavy_package() -> None:
    code = (
        "import sys, onnxptq; assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules); "
        "onnxptq.Quantizer, onnxptq.Recipe; assert not {'torch', 'transformers', 'segment_anything'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_statistic_recipes_need_no_torch() -> None:
    """The whole way, with torch made unimportable."""
    code = """
import sys
for name in ("torch", "transformers", "segment_anything"):
    sys.modules[name] = None
import numpy as np, onnx
from onnx import TensorProto as T, helper as h
from onnxptq import Quantizer, Recipe
from onnxptq.errors import InputError
w = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)
nodes = [h.make_node("MatMul", ["x", "w"], ["a"]), h.make_node("Relu", ["a"], ["b"]),
    h.make_node("MatMul", ["b", "v"], ["y"])]
graph = h.make_graph(nodes, "g",
    [h.make_tensor_value_info("x", T.FLOAT, [4, 8])], [h.make_tensor_value_info("y", T.FLOAT, [4, 8])],
    [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(w, "v")])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
for name in Recipe.names():
    q = Quantizer(model, recipe=name, threads=1)
    try:
        q.calibrate([{"x": w[:4]}])
    except InputError as error:
        assert name in ("adaround", "brecq", "qdrop", "ptq4sam-l"), name
        assert "pip install 'onnxptq[learn]'" in str(error)
        continue
    assert q.quantize().report.outputs["y"].sqnr > 20, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
