from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.errors import ArtifactError, InputError
from onnxptq.running import compare
from onnxptq.running import runner as verify
from onnxptq.running.metrics import metrics

rng = np.random.default_rng(0)


def scaled(factor: float, *, offset: float = 0.0, output: str = "y", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = relu(x w) factor + offset, with an inner tensor h."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Mul", ["r", "f"], ["m"]),
        helper.make_node("Add", ["m", "o"], [output]),
    ]
    constants = {
        "w": np.eye(4, dtype=np.float32) * np.float32(factor),
        "f": np.float32(factor),
        "o": np.float32(offset),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, ["N", 4])],
        [helper.make_tensor_value_info(output, dtype, ["N", 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


SAMPLES = [{"x": rng.normal(size=(n, 4)).astype(np.float32)} for n in (3, 5, 1)]


class TestModels:
    def test_outputs_side_by_side(self) -> None:
        found = compare.models(scaled(1.0), scaled(1.01), SAMPLES)
        assert list(found) == ["y"]
        assert found["y"].samples == 3
        assert found["y"].sqnr == pytest.approx(-20 * math.log10(1.01**2 - 1), rel=1e-3)

    def test_no_common_output(self) -> None:
        with pytest.raises(InputError, match="no output in common: y and z"):
            compare.models(scaled(1.0), scaled(1.0, output="z"), SAMPLES)

    def test_nan_of_an_artifact_is_an_error(self) -> None:
        assert compare.models(scaled(1.0), scaled(1.0, offset=float("nan")), SAMPLES)["y"].broken == 36
        with pytest.raises(ArtifactError, match="output 'y' has 36 NaN"):
            compare.models(scaled(1.0), scaled(1.0, offset=float("nan")), SAMPLES, artifact=True)

    def test_shapes_differ(self) -> None:
        with pytest.raises(InputError, match=r"output 'y' cannot be compared: shape \[1\] in the reference, \[2\]"):
            compare.outputs([{"y": np.ones(1)}], [{"y": np.ones(2)}])

    def test_who_fails_is_named(self) -> None:
        broken = scaled(1.0)
        broken.graph.node[0].op_type = "NoSuchOp"
        with pytest.raises(InputError, match=r"^reference: onnxruntime does not load it: .*NoSuchOp"):
            compare.models(broken, scaled(1.0), SAMPLES)
        with pytest.raises(ArtifactError, match=r"^quantized model: onnxruntime does not load it"):
            compare.models(scaled(1.0), broken, SAMPLES, artifact=True)


class TestLayers:
    PAIRS = (("h", "h"), ("r", "r"), ("y", "y"), ("gone", "h"))

    def test_error_grows_with_depth(self) -> None:
        found = compare.layers(scaled(1.0), scaled(1.01), self.PAIRS, SAMPLES)
        assert list(found) == ["h", "r", "y"]
        assert found["h"].sqnr == pytest.approx(40, abs=0.1)
        assert found["y"].sqnr == pytest.approx(-20 * math.log10(1.01**2 - 1), rel=1e-3)

    def test_inner_tensors_are_no_masks(self) -> None:
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "x"], ["h"]), helper.make_node("Sub", ["h", "x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 8])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        sample = [{"x": rng.normal(size=(1, 1, 8, 8)).astype(np.float32)}]
        assert compare.models(model, model, sample)["y"].agreement == 1.0
        assert compare.layers(model, model, [("y", "y")], sample)["y"].agreement is None

    def test_memory_limit_does_not_change_the_result(self) -> None:
        once = compare.layers(scaled(1.0), scaled(1.01), self.PAIRS, SAMPLES)
        assert compare.layers(scaled(1.0), scaled(1.01), self.PAIRS, SAMPLES, memory_limit=1) == once

    def test_groups_fit_the_limit(self) -> None:
        sizes = {"a": 5, "b": 5, "c": 20, "d": 1}
        pairs = [(n, n) for n in sizes]
        assert [[a for a, _ in g] for g in compare._groups(pairs, sizes, 10)] == [["a", "b"], ["c"], ["d"]]
        assert [len(g) for g in compare._groups([("a", "x"), ("b", "x")], sizes, 100)] == [1, 1]

    def test_models_are_left_alone(self) -> None:
        model = scaled(1.0)
        before = model.SerializeToString()
        compare.layers(model, scaled(1.01), self.PAIRS, SAMPLES)
        assert model.SerializeToString() == before


def test_tapped_shapes_need_no_run_where_the_model_says_them() -> None:
    model = scaled(1.0)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [7, 4]))
    assert verify.InnerTensors(model).shapes(["h"], {}) == {"h": (7, 4)}


def test_tapped_shapes() -> None:
    shapes = verify.InnerTensors(scaled(1.0)).shapes(["h", "y"], SAMPLES[1])
    assert shapes == {"h": (5, 4), "y": (5, 4)}


def test_some_rows_of_layers() -> None:
    """Of a tensor with rows only these are compared, and the figures keep its name."""
    rows = np.array([[1], [4]])
    pairs = [("h", "h"), ("y", "y")]
    one, other = scaled(1.0), scaled(1.01)
    whole = compare.layers(one, other, pairs, SAMPLES[1:2])
    found = compare.layers(one, other, pairs, SAMPLES[1:2], rows=lambda name, _: rows if name == "h" else None)
    assert list(found) == ["h", "y"]
    assert found["y"] == whole["y"]
    seen = [
        next(verify.run(verify.InnerTensors(model).outputs(["h"]), SAMPLES[1:2]))["h"][[1, 4]] for model in (one, other)
    ]
    assert found["h"].sqnr == pytest.approx(metrics(*seen).sqnr)
    assert found["h"].sqnr != whole["h"].sqnr
