"""Nodes that do not fit the schemas of their ops."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from tests.graph.build import model, normal, same

HEAD = "g (float[2,4] x) => (float[2,4] y) { p = MatMul(x, w) s = Softmax<axis = 1>(p) y = Concat<axis = 0>(s) }"


@pytest.fixture
def proto() -> onnx.ModelProto:
    return model(HEAD, w=normal(4, 4))


def complaint(proto: onnx.ModelProto) -> str:
    with pytest.raises(InputError) as caught:
        load(proto)
    return str(caught.value)


def test_inputs(proto: onnx.ModelProto) -> None:
    product = proto.graph.node[0]
    product.input.append("x")
    assert "MatMul has 3 inputs, the op takes 2" in complaint(proto)
    del product.input[1:]
    assert "MatMul has 1 inputs, the op takes 2" in complaint(proto)
    product.input[:] = ["", "w"]
    assert "MatMul lacks its input 'A'" in complaint(proto)
    product.input[:] = ["x", "w"]
    del proto.graph.node[2].input[:]
    assert "Concat has 0 inputs, the op takes 1 or more" in complaint(proto)


def test_outputs(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output.append("more")
    assert "Softmax has 2 outputs, the op takes 1" in complaint(proto)


def test_attributes(proto: onnx.ModelProto) -> None:
    softmax, concat = proto.graph.node[1:]
    softmax.attribute.append(softmax.attribute[0])
    assert "Softmax has the attribute 'axis' twice" in complaint(proto)
    softmax.attribute[1].name = "axes"
    assert "Softmax has the attribute 'axes', which the op does not know" in complaint(proto)
    del softmax.attribute[:]
    softmax.attribute.append(helper.make_attribute("axis", 1.0))
    assert "Softmax has the attribute 'axis' of another type than INT" in complaint(proto)
    del softmax.attribute[:], concat.attribute[:]
    assert "Concat lacks the attribute 'axis'" in complaint(proto)


def test_ops_of_others_are_left_to_onnxruntime(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].domain = "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert load(proto).graph.nodes


def test_the_standard_domain_has_two_names(proto: onnx.ModelProto) -> None:
    plain = onnx.ModelProto.FromString(proto.SerializeToString())
    proto.opset_import[0].domain = "ai.onnx"
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    held = canonicalise(load(proto))
    same(plain, held, {"x": normal(2, 4)})


def test_lists_of_no_numbers() -> None:
    held = model(
        """g (float[2,4] x) => (float[2,4] y, int64[N] z)
        { z = Constant<value_ints = [7]>() t = Transpose<perm = [1, 0]>(x) y = Transpose<perm = [1, 0]>(t) }"""
    )
    plain = onnx.ModelProto.FromString(held.SerializeToString())
    del held.graph.node[0].attribute[0].ints[:], held.graph.node[1].attribute[0].ints[:]
    del plain.graph.node[0].attribute[0].ints[:], plain.graph.node[1].attribute[0]
    same(plain, load(held), {"x": normal(2, 4)})


def test_an_absent_bias_at_the_end() -> None:
    """onnxruntime dies of a LayerNormalization whose bias is absent by name."""
    held = model("g (float[2,4] x) => (float[2,4] y) { y = LayerNormalization(x, s) }", s=normal(4))
    plain = onnx.ModelProto.FromString(held.SerializeToString())
    held.graph.node[0].input.append("")
    same(plain, canonicalise(load(held)), {"x": normal(2, 4)})
    same(plain, load(held), {"x": normal(2, 4)})
