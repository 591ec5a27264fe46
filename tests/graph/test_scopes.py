"""Names of subgraphs that hide names of outer graphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.scopes import unshadow
from tests.graph.build import run


def info(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop(inside: list[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.GraphProto:
    """A body that carries ``v``, adds what ``inside`` makes of it as ``r``, and goes on."""
    return helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), *inside],
        "body",
        [info("turn", TensorProto.INT64), info("on", TensorProto.BOOL), info("v", TensorProto.FLOAT, 3)],
        [info("still", TensorProto.BOOL), info("r", TensorProto.FLOAT, 3)],
        list(weights),
    )


def nested() -> onnx.ModelProto:
    """Three loops, one in the other; their bodies share all names and ``w`` hides a weight of the main graph."""
    one = numpy_helper.from_array(np.ones(3, np.float32), "w")
    two = numpy_helper.from_array(np.full(3, 2, np.float32), "w")
    body = loop([helper.make_node("Add", ["v", "w"], ["r"])], two)
    for _ in range(2):
        added = helper.make_node("Loop", ["trips", "on", "v"], ["s"], body=body)
        body = loop([added, helper.make_node("Add", ["s", "w"], ["r"])])
    nodes = [helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)]
    constants = [
        numpy_helper.from_array(np.array(2, np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "go"),
        one,
    ]
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, 3)], [info("y", TensorProto.FLOAT, 3)], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_loops_in_loops_that_share_names() -> None:
    model = canonicalise(load(nested()))
    got = run(model.to_proto(), {"x": np.zeros(3, np.float32)})[0]
    # The innermost body adds 2 in each of 8 turns, the one around it 1 in each of 4, the outer one 1 in each of 2.
    np.testing.assert_array_equal(got, np.full(3, 22, np.float32))


def test_every_name_is_defined_once() -> None:
    proto = nested()
    unshadow(proto.graph)

    def walk(graph: onnx.GraphProto, outer: frozenset[str]) -> int:
        own = [v.name for v in graph.input] + [t.name for t in graph.initializer]
        own += [name for node in graph.node for name in node.output]
        assert not outer & set(own)
        inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        return 1 + sum(walk(part, outer | set(own)) for part in inner)

    assert walk(proto.graph, frozenset()) == 4
    onnx.checker.check_model(proto, full_check=True)


def test_a_graph_without_subgraphs_stays() -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [info("x", TensorProto.FLOAT, 3)], [info("y", TensorProto.FLOAT, 3)])
    before = graph.SerializeToString()
    unshadow(graph)
    assert graph.SerializeToString() == before
