"""Oddities of model files that later stages do not expect are repaired or refused in one line."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.quantizer import Quantizer
from tests.graph.build import model, normal, same


def linear() -> onnx.ModelProto:
    return model("g (float[n,4] x) => (float[n,4] y) { p = MatMul(x, w) y = Elu<alpha=0.5>(p) }", w=normal(4, 4))


def test_metadata_that_is_no_text_is_kept_as_far_as_it_is() -> None:
    proto = linear()
    proto.metadata_props.add(key="author", value="caf@")
    proto.graph.node[0].doc_string = "na@ve"
    data = proto.SerializeToString().replace(b"caf@", b"caf\xe9").replace(b"na@ve", b"na\xefve")
    held = load(data)
    assert held.metadata == {"author": "caf\N{REPLACEMENT CHARACTER}"}
    (note,) = held.notes
    assert "'author'" in note
    same(proto, canonicalise(held), {"x": normal(3, 4)})


def test_an_argument_of_no_function() -> None:
    proto = linear()
    proto.graph.node[1].attribute[0].ref_attr_name = "slope"
    proto.graph.node[1].attribute[0].ClearField("f")
    with pytest.raises(InputError, match=r"Elu 'y'.* 'alpha' refers to 'slope'"):
        load(proto)


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_inputs_that_are_no_tensors(kind: str) -> None:
    proto = linear()
    plain = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 4])
    typed = helper.make_sequence_type_proto(plain) if kind == "sequence" else helper.make_optional_type_proto(plain)
    proto.graph.input.append(helper.make_value_info("more", typed))
    held = canonicalise(load(proto))
    assert [given.type.WhichOneof("value") for given in held.to_proto().graph.input] == ["tensor_type", f"{kind}_type"]
    with pytest.raises(InputError, match=f"input 'more' is a {kind}"):
        Quantizer(proto, recipe="minmax").calibrate()


def test_text_inputs_need_samples() -> None:
    proto = linear()
    proto.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, [1]))
    with pytest.raises(InputError, match="input 'words' holds text"):
        Quantizer(proto, recipe="minmax").calibrate()
