"""Stages of a graph: together they equal the graph, and only tensors that later stages read are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxptq.calibration.shelf import Shelf
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.stages import Replaced, Sizes, Stages, Stream, joined
from onnxptq.graph.model import Model
from onnxptq.running.sessions import session

RNG = np.random.default_rng(0)
WEIGHTS = {f"w{i}": RNG.standard_normal((4, 4)).astype(np.float32) for i in range(3)}


def graph() -> onnx.ModelProto:
    """Two linears one after the other, a third beside them, a sum of all, and a constant that is computed."""
    nodes = [
        helper.make_node("Abs", ["w2"], ["w2_abs"], name="constant"),
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["a_relu"], name="relu"),
        helper.make_node("MatMul", ["a_relu", "w1"], ["b"], name="second"),
        helper.make_node("MatMul", ["x", "w2_abs"], ["c"], name="beside"),
        helper.make_node("Sum", ["b", "c", "x"], ["y"], name="sum"),
    ]
    shape = ["batch", 4]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, name) for name, w in WEIGHTS.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def stream(limit: int = 1 << 30, count: int = 3) -> tuple[Stream, list[dict[str, np.ndarray]], Shelf]:
    samples = [{"x": RNG.standard_normal((2 + i, 4)).astype(np.float32)} for i in range(count)]
    source = open_source(
        samples, inputs=input_specs(Model.from_proto(graph())), samples=None, preprocess="raw", seed=0, shapes={}
    )
    shelf = Shelf(limit)
    return Stream("s", Stages(graph(), ["first", "second", "beside"]), source, shelf, threads=1), samples, shelf


def finish(walk: Stream) -> None:
    sizes: dict[str, Any] = {}
    for stage in range(len(walk.stages)):
        made: Sizes = {}
        fed = {name: sizes[name] for name in walk.stages.fed(stage) if name in sizes}
        for found in walk.advance(range(len(walk.source)), fed):
            made = joined(made, found)
        sizes |= made


def test_stages_follow_the_longest_way() -> None:
    stages = Stages(graph(), ["first", "second", "beside"])
    assert [stages.at(stage) for stage in range(len(stages))] == [[], ["first", "beside"], ["second"]]
    assert stages.fed(2) == ["a_relu", "c", "x"]
    assert stages.left(1) == ["a_relu", "c"]


@pytest.mark.parametrize("limit", [0, 100, 1 << 30])
def test_a_stream_ends_with_the_outputs_of_the_model(limit: int) -> None:
    walk, samples, shelf = stream(limit)
    with shelf:
        finish(walk)
        whole = session(graph(), threads=1)
        for index, sample in enumerate(samples):
            assert np.array_equal(walk.value(index, "y"), whole.run(["y"], sample)[0])
        assert not walk.holds("a_relu")
        assert set(shelf.shapes) == {("s", index, "y") for index in range(len(samples))}


def test_what_does_not_fit_lies_in_a_folder_that_goes() -> None:
    walk, _, shelf = stream(0)
    with shelf:
        finish(walk)
        folder = Path(shelf._folder.name)
        assert len(list(folder.iterdir())) == 3
    assert not folder.exists()


def test_replaced_weights_are_used_and_shifted() -> None:
    walk, samples, shelf = stream()
    weight, shift = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.float32)
    walk.replaced["second"] = Replaced(weight, shift)
    with shelf:
        finish(walk)
        for index, sample in enumerate(samples):
            x = sample["x"]
            wanted = np.maximum(x @ WEIGHTS["w0"], 0) + shift + x @ np.abs(WEIGHTS["w2"]) + x
            assert np.allclose(walk.value(index, "y"), wanted, atol=1e-5)


def resizing() -> onnx.ModelProto:
    """An image coded, then resized to a size that is computed from a graph input before the second stage."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", kernel_shape=[1, 1]),
        helper.make_node("Cast", ["size"], ["whole"], to=onnx.TensorProto.INT64),
        helper.make_node("Concat", ["lead", "whole"], ["sizes"], axis=0),
        helper.make_node("Conv", ["a", "w"], ["b"], name="second", kernel_shape=[1, 1]),
        helper.make_node("Resize", ["b", "", "", "sizes"], ["y"], mode="linear"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, "h", "w"]),
            helper.make_tensor_value_info("size", onnx.TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, "p", "q"])],
        [
            numpy_helper.from_array(WEIGHTS["w0"].reshape(4, 4, 1, 1), "w"),
            numpy_helper.from_array(np.array([1, 4]), "lead"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_size_computed_before_a_stage_resizes_in_it() -> None:
    samples = [
        {"x": RNG.standard_normal((1, 4, 3 + i, 3)).astype(np.float32), "size": np.array([5, 7 + i], np.float32)}
        for i in range(2)
    ]
    source = open_source(
        samples, inputs=input_specs(Model.from_proto(resizing())), samples=None, preprocess="raw", seed=0, shapes={}
    )
    with Shelf(1 << 30) as shelf:
        walk = Stream("s", Stages(resizing(), ["first", "second"]), source, shelf, threads=1)
        finish(walk)
        whole = session(resizing(), threads=1)
        for index, sample in enumerate(samples):
            assert np.array_equal(walk.value(index, "y"), whole.run(["y"], sample)[0])
