"""A closed session returns its memory, also where our kernels borrowed from its arena."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxptq.running.sessions import session

SIDE = 4000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def product_observed() -> onnx.ModelProto:
    """A tensor of SIDE x SIDE that lives in the session's arena alone."""
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["product"]),
        helper.make_node("Range", ["product"], ["stats"], domain="onnxptq.calib"),
        helper.make_node("Identity", ["stats"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, "k"])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
    )
    graph.node[0].input[1] = "xt"
    graph.node.insert(0, helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0]))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("onnxptq.calib", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_session_that_is_gone_holds_no_memory() -> None:
    model, x = product_observed(), np.ones((SIDE, 4), np.float32)
    grown = []
    for _ in range(4):
        run = session(model, threads=1)
        assert float(np.asarray(run.run(None, {"x": x})[0])[1]) == 4.0
        del run
        gc.collect()
        grown.append(resident())
    assert grown[-1] - grown[0] < 4 * SIDE * SIDE, "every session leaves its arena behind"
