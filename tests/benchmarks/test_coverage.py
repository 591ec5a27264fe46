"""Coverage of files in the comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.coverage import Coverage, coverage

node = helper.make_node


def attention(*, linear: bool, products: bool) -> onnx.ModelProto:
    """x W, (x W) (x W)^T with a table of relative positions added, and a convolution in float; Q/DQ pairs where asked
    for."""
    weight = np.eye(4, dtype=np.float32)
    constants = {
        "w": weight,
        "codes": weight.astype(np.int8),
        "s": np.float32(1),
        "table": np.ones((3, 4, 4), np.float32),
        "kernel": np.ones((1, 1, 1, 1), np.float32),
        "q_s": np.float32(0.1),
        "q_z": np.uint8(128),
    }
    nodes = []

    def coded(name: str) -> str:
        nodes.extend(
            [
                node("QuantizeLinear", [name, "q_s", "q_z"], [f"{name}_q"]),
                node("DequantizeLinear", [f"{name}_q", "q_s", "q_z"], [f"{name}_d"]),
            ]
        )
        return f"{name}_d"

    held = "w"
    if linear:
        nodes.append(node("DequantizeLinear", ["codes", "s"], ["held"]))
        held = "held"
    nodes.append(node("MatMul", [coded("x") if linear else "x", held], ["h"]))
    a = coded("h") if products else "h"
    nodes.append(node("Transpose", [a], ["t"], perm=[0, 2, 1]))
    nodes.append(node("MatMul", [a, "t"], ["scores"]))
    nodes.append(node("MatMul", ["h", "table"], ["relative"]))
    nodes.append(node("Unsqueeze", ["scores", "axis"], ["image"]))
    nodes.append(node("Conv", ["image", "kernel"], ["y"]))
    constants["axis"] = np.array([1], np.int64)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4, 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 1, 4, 4]),
            helper.make_tensor_value_info("relative", TensorProto.FLOAT, [3, 4, 4]),
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_both_operands_must_be_coded(linear: bool, products: bool) -> None:
    found = coverage(attention(linear=linear, products=products))
    assert found == Coverage(linears=(int(linear), 1), products=(int(products), 1), convs=(0, 1))
    assert str(found) == f"{int(linear)}/1 linears, {int(products)}/1 products, 0/1 convs"


def test_a_weight_alone_is_not_enough() -> None:
    model = attention(linear=True, products=False)
    product = next(n for n in model.graph.node if n.op_type == "MatMul")
    product.input[0] = "x"
    assert coverage(model).linears == (0, 1)


def test_dynamic_quantization_of_onnxruntime(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    original, out = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(attention(linear=False, products=False), original)
    quantize_dynamic(str(original), str(out))
    found = coverage(out)
    assert found.linears == (1, 1)
    assert found.products == (0, 1)


def test_ops_of_ours_count_as_what_they_do() -> None:
    def model(*nodes: Any) -> onnx.ModelProto:
        return helper.make_model(helper.make_graph(list(nodes), "g", [], []))

    ours = {"domain": "onnxptq"}
    found = coverage(
        model(
            node("QLinear", ["x", "w"], ["a"], x_bits=8, **ours),
            node("QLinear", ["x", "w"], ["b"], x_bits=0, **ours),
            node("QAttention", ["a", "b", "c"], ["d"], **ours),
            node("QConv", ["d", "w"], ["e"], x_bits=4, **ours),
        )
    )
    assert found == Coverage(linears=(1, 2), products=(2, 2), convs=(1, 1))
