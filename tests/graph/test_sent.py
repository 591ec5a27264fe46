"""A model sent to another process arrives whole, its large weights beside the message."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxptq.graph.model import Model
from onnxptq.graph.sent import LARGE, Sent


def made() -> onnx.ModelProto:
    large = np.arange(LARGE, dtype=np.float32)
    constants = [numpy_helper.from_array(large, "a"), numpy_helper.from_array(np.float32([2]), "b")]
    nodes = [helper.make_node("Add", ["x", "a"], ["s"], "add"), helper.make_node("Mul", ["s", "b"], ["y"], "mul")]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [LARGE]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_function_that_makes_a_model_is_sent_as_the_model() -> None:
    here = Sent(made)
    there = pickle.loads(pickle.dumps(here))
    assert there() == here() == made()


def test_weights_travel_beside_the_message() -> None:
    _, (message, apart) = Sent(made).__reduce__()
    assert len(message) < LARGE
    assert list(apart) == [0]


def test_a_graph_is_sent_as_its_message() -> None:
    model = Model.from_proto(made())
    assert pickle.loads(pickle.dumps(model)).to_proto() == model.to_proto()
