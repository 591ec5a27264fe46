"""Models that are complete but invalid: each is one line before any computation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.errors import InputError
from onnxptq.graph import validity
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from tests.graph.build import model, normal, same


@pytest.fixture
def proto() -> onnx.ModelProto:
    return model(
        "g (float[B,4] x) => (float[B,4] y) { p = MatMul(x, w) q = Add(p, b) y = Relu(q) }", w=normal(4, 4), b=normal(4)
    )


def complaint(proto: onnx.ModelProto | bytes) -> str:
    with pytest.raises(InputError) as caught:
        canonicalise(load(proto))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def function(name: str, *nodes: onnx.NodeProto, domain: str = "local") -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function(domain, name, ["a"], ["o"], nodes, imports)


def calling(proto: onnx.ModelProto, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    """The model with its last node calling the first function."""
    proto.functions.extend(functions)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[-1].op_type, proto.graph.node[-1].domain = functions[0].name, "local"
    return proto


def test_two_initializers_of_one_name(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4), np.float32), "w"))
    assert "the initializer 'w' twice" in complaint(proto)


def test_two_outputs_and_two_inputs_of_one_name(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(proto.graph.output[0])
    assert "the output 'y' twice" in complaint(proto)
    del proto.graph.output[1:]
    proto.graph.input.append(proto.graph.input[0])
    assert "the input 'x' twice" in complaint(proto)


def test_a_tensor_made_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Neg", ["q"], ["p"]))
    assert "Neg makes 'p', which is there already" in complaint(proto)
    proto.graph.node[-1].output[0] = "w"
    assert "Neg makes 'w', which is there already" in complaint(proto)


def test_an_output_that_nothing_makes(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "nowhere"
    assert "nothing makes the output 'nowhere'" in complaint(proto)


@pytest.mark.parametrize("version", [0, 99])
def test_unknown_ir_version(proto: onnx.ModelProto, version: int) -> None:
    proto.ir_version = version
    assert f"IR version {version}" in complaint(proto)


def test_operator_sets(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    assert "operator set '' twice" in complaint(proto)
    del proto.opset_import[1:]
    proto.opset_import[0].version = 0
    assert "version 0" in complaint(proto)


def test_names_that_are_no_text(proto: onnx.ModelProto) -> None:
    assert "not UTF-8" in complaint(proto.SerializeToString().replace(b"MatMul", b"Mat\xff\xfel"))


def test_tensors_read_in_bodies() -> None:
    held = model(
        """g (float[2] x, bool c) => (float[2] y)
        { y = If(c) <then_branch = a () => (float[2] t) { t = Neg(x) }, else_branch = b () => (float[2] f)
        { f = Abs(x) }> }"""
    )
    held.graph.node[0].attribute[0].g.node[0].input[0] = "nowhere"
    assert "Neg reads 'nowhere'" in complaint(held) or "If reads 'nowhere'" in complaint(held)


def test_a_cycle_through_a_body() -> None:
    held = model(
        """g (float[2] x, bool c) => (float[2] y)
        { p = Neg(x) y = If(c) <then_branch = a () => (float[2] t) { t = Neg(p) }, else_branch = b () => (float[2] f)
        { f = Abs(x) }> }"""
    )
    held.graph.node[0].input[0] = "y"
    assert "cycle" in complaint(held)


def test_nodes_in_any_order(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    shuffled = onnx.ModelProto.FromString(proto.SerializeToString())
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    same(proto, canonicalise(load(shuffled)), {"x": normal(2, 4)})


def test_deep_bodies(proto: onnx.ModelProto) -> None:
    """Deeper ones do not fit a message at all."""
    output = helper.make_empty_tensor_value_info("o")
    flat = body = helper.make_graph([helper.make_node("Neg", ["q"], ["o"])], "g", [], [output])
    for _ in range(25):
        node = helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=flat)
        body = helper.make_graph([node], "g", [], [output])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    proto.graph.node[-1].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=flat))
    assert canonicalise(load(proto)).graph.nodes


def test_a_bomb_of_functions(proto: onnx.ModelProto) -> None:
    """Twenty-five functions, each of which calls the next one twice."""
    levels = [
        function(
            f"f{level}",
            *(
                helper.make_node(f"f{level + 1}" if level < 24 else "Neg", [a], [o], domain="local" * (level < 24))
                for a, o in (("a", "b"), ("b", "o"))
            ),
        )
        for level in range(25)
    ]
    assert "inline to more than" in complaint(calling(proto, *levels))


def test_functions_that_never_end(proto: onnx.ModelProto) -> None:
    calls = helper.make_node("f", ["a"], ["o"], domain="local")
    assert "'f' calls itself" in complaint(calling(proto, function("f", calls)))


def test_a_long_chain_of_functions(proto: onnx.ModelProto) -> None:
    chain = [function(f"f{i}", helper.make_node(f"f{i + 1}", ["a"], ["o"], domain="local")) for i in range(60)]
    assert "levels deep" in complaint(calling(proto, *chain, function("f60", helper.make_node("Neg", ["a"], ["o"]))))


def test_two_functions_of_one_name(proto: onnx.ModelProto) -> None:
    one = function("f", helper.make_node("Neg", ["a"], ["o"]))
    assert "the function 'local.f' twice" in complaint(calling(proto, one, one))


def test_many_nodes_take_linear_time() -> None:
    """A chain of 20,000 nodes is checked in a moment."""
    count = 20_000
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1]) for i in (0, count)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    validity.check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "chain")
