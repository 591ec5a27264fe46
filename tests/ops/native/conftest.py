"""Runs single ops of the compiled library in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnxptq.ops import library

Array = NDArray[Any]
LIBRARY = library.path()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder: pytest passes every conftest the tests of all folders."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker("native")
        if LIBRARY is None:
            item.add_marker(pytest.mark.skip(reason="no native library: build it with cmake or set ONNXPTQ_LIBRARY"))


@pytest.fixture(params=library.isas() or ["none"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction set of this machine, one after the other."""
    monkeypatch.setenv("ONNXPTQ_ISA", request.param)
    return str(request.param)


class Runner:
    """``runner("Op", x, scale, bits=4)`` runs one node; arrays in ``constants`` (by position) become initializers."""

    def session(
        self,
        op: str,
        *inputs: Array | onnx.TensorProto | None,
        constants: tuple[int, ...] = (),
        outputs: int = 1,
        threads: int = 1,
        domain: str = "onnxptq",
        **attributes: Any,
    ) -> ort.InferenceSession:
        names, values, initializers = [], [], []
        for i, value in enumerate(inputs):
            names.append("" if value is None else f"i{i}")
            if isinstance(value, onnx.TensorProto):
                initializers.append(onnx.TensorProto.FromString(value.SerializeToString()))
                initializers[-1].name = f"i{i}"
            elif value is not None and i in constants:
                initializers.append(onnx.numpy_helper.from_array(np.asarray(value), f"i{i}"))
            elif value is not None:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                values.append(helper.make_tensor_value_info(f"i{i}", kind, [None] * value.ndim))
        while names and not names[-1]:
            names.pop()
        node = helper.make_node(op, names, [f"o{i}" for i in range(outputs)], domain=domain, name="node", **attributes)
        results = [helper.make_empty_tensor_value_info(f"o{i}") for i in range(outputs)]
        graph = helper.make_graph([node], "g", values, results, initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)], ir_version=10
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.register_custom_ops_library(str(LIBRARY))
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(
        self, op: str, *inputs: Array | onnx.TensorProto | None, constants: tuple[int, ...] = (), **options: Any
    ) -> Any:
        session = self.session(op, *inputs, constants=constants, **options)
        feeds = {
            f"i{i}": np.asarray(v)
            for i, v in enumerate(inputs)
            if isinstance(v, np.ndarray | np.generic) and i not in constants
        }
        results = session.run(None, feeds)
        return results[0] if len(results) == 1 else tuple(results)


@pytest.fixture
def run() -> Runner:
    return Runner()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
