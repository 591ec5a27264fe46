"""Edits of a graph leave all other readers, outputs and constants unchanged."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.edit import (
    bypass,
    is_output,
    only_reader,
    position,
    producer,
    remove,
    replace_output,
    set_constant,
    set_input,
    sweep,
)
from onnxptq.graph.model import Model, value
from tests.graph.build import model, normal

TEXT = "g (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) { a = Mul(x, c) b = Identity(a) y = Add(b, c) z = Relu(a) }"


def held() -> Model:
    return Model.from_proto(model(TEXT, c=normal(4)))


def node(graph: Model, op: str) -> gs.Node:
    return next(n for n in graph.graph.nodes if n.op == op)


def test_a_shared_constant_is_cloned_and_an_own_one_is_replaced() -> None:
    graph = held()
    old = np.array(value(graph.tensor("c")))
    set_constant(graph, node(graph, "Add"), 1, np.ones(4))
    assert np.array_equal(value(node(graph, "Add").inputs[1]), np.ones(4))
    assert value(node(graph, "Add").inputs[1]).dtype == np.float32
    assert np.array_equal(value(node(graph, "Mul").inputs[1]), old)
    name = node(graph, "Mul").inputs[1].name
    set_constant(graph, node(graph, "Mul"), 1, np.zeros(4))
    assert node(graph, "Mul").inputs[1].name == name
    assert not value(node(graph, "Mul").inputs[1]).any()


def test_one_input_is_replaced() -> None:
    graph = held()
    add = node(graph, "Add")
    set_input(add, 0, graph.tensor("x"))
    assert [t.name for t in add.inputs] == ["x", "c"]
    assert [n.op for n in graph.tensor("x").outputs] == ["Mul", "Add"]
    assert graph.tensor("b").outputs == []


def test_who_reads_and_who_makes() -> None:
    graph = held()
    assert only_reader(graph.tensor("b"), graph) is node(graph, "Add")
    assert only_reader(graph.tensor("a"), graph) is None
    assert only_reader(graph.tensor("y"), graph) is None
    assert producer(graph.tensor("a")) is node(graph, "Mul")
    assert producer(graph.tensor("x")) is None
    assert [is_output(graph, graph.tensor(name)) for name in "abyz"] == [False, False, True, True]


def test_nodes_are_removed_or_bypassed() -> None:
    graph = held()
    assert bypass(graph, node(graph, "Identity"))
    sweep(graph)
    assert [n.op for n in graph.graph.nodes] == ["Mul", "Add", "Relu"]
    assert [t.name for t in node(graph, "Add").inputs] == ["a", "c"]
    relu = node(graph, "Relu")
    assert position(graph, relu) == 2
    remove(graph, relu)
    assert [n.op for n in graph.graph.nodes] == ["Mul", "Add"]
    assert [n.op for n in graph.tensor("a").outputs] == ["Add"]


def test_an_output_keeps_its_name() -> None:
    graph = held()
    new = gs.Variable("new", dtype=np.float32, shape=[2, 4])
    replace_output(graph, node(graph, "Relu"), 0, new)
    assert [t.name for t in graph.graph.outputs] == ["y", "z"]
    assert graph.graph.outputs[1] is new
