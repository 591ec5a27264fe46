"""What stays in float by default, decided by structure: features of a pyramid, detectors, promptable decoders."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.model import Model
from onnxptq.structure import Role, Structure, discover
from onnxptq.structure.scope import FIRST, HEAD, LAST
from tests.graph.build import model, normal


def found(text: str, **weights: Any) -> Structure:
    structure = discover(canonicalise(Model.from_proto(model(text, **weights))))
    floats = {s.consumer for s in structure.sites if s.role is Role.WEIGHT and not s.default}
    assert floats == {name for name in structure.left if structure.is_layer(name)}
    return structure


def reasons(text: str, **weights: Any) -> list[str]:
    return list(found(text, **weights).left.values())


def test_a_level_of_a_pyramid_is_no_output_layer() -> None:
    """Necks without norms put out what a convolution makes: as many channels as it reads."""
    text = (
        "g (float[1,3,16,16] x) => (float[1,8,8,8] y, float[1,2,8,8] z) { h = Conv<strides=[2,2]>(x, w1) r = Relu(h) "
        "y = Conv(r, w2) z = Conv(r, w3) }"
    )
    weights = {"w1": normal(8, 3, 2, 2), "w2": normal(8, 8, 1, 1), "w3": normal(2, 8, 1, 1)}
    assert reasons(text, **weights) == [FIRST, LAST]


def test_a_convolution_on_features_is_no_first_layer() -> None:
    text = "g (float[1,CH,8,8] x) => (float[1,8,8,8] y) { h = Conv(x, w1) r = Relu(h) y = Conv(r, w2) }"
    weights = {"w1": normal(8, 8, 1, 1), "w2": normal(8, 8, 1, 1)}
    assert reasons(text, **weights) == [FIRST]
    assert reasons(text.replace("CH", "8"), **weights) == []


def test_the_sides_of_a_mask_product_are_no_output_layers() -> None:
    text = (
        "g (float[1,8,8] x, float[1,8,64] f) => (float[1,8,64] y) { h = MatMul(x, w1) r = Relu(h) "
        "m = MatMul(r, w2) y = MatMul(m, f) }"
    )
    structure = found(text, w1=normal(8, 8), w2=normal(8, 8, seed=1))
    assert list(structure.left) == list(structure.matmuls)


LOOK = (
    "q{0} = MatMul({1}, wq) k{0} = MatMul({2}, wk) v{0} = MatMul({2}, wv) kt{0} = Transpose<perm=[0,2,1]>(k{0}) "
    "s{0} = MatMul(q{0}, kt{0}) p{0} = Softmax(s{0}) a{0} = MatMul(p{0}, v{0}) o{0} = MatMul(a{0}, wo) "
)
WEIGHTS: dict[str, Any] = {n: normal(8, 8, seed=i) for i, n in enumerate(("wq", "wk", "wv", "wo", "w1", "w2", "w3"))}
HEADED = (
    "t1 = Add(tokens, o1) n1 = LayerNormalization<axis=-1>(t1, one) {} h = MatMul(n1, w1) r = Relu(h) "
    "y = MatMul(r, w2) "
)
INPUTS = "g (float[1,5,8] tokens, float[1,16,8] image) => (float[1,5,8] y"


def test_the_head_of_a_promptable_decoder_stays_in_float() -> None:
    """Tokens look at the image and the image at the tokens."""
    back = LOOK.format(2, "image", "n1") + "i1 = Add(image, o2) z = LayerNormalization<axis=-1>(i1, one)"
    text = f"{INPUTS}, float[1,16,8] z) {{ {LOOK.format(1, 'tokens', 'image')} {HEADED.format(back)} }}"
    weights = {k: v for k, v in WEIGHTS.items() if k != "w3"} | {"one": np.ones(8, np.float32)}
    assert sorted(reasons(text, **weights)) == sorted([HEAD, LAST])


def test_a_detector_has_no_promptable_head() -> None:
    """Queries look at the image, which never looks back: only the output layer stays in float."""
    text = f"{INPUTS}) {{ {LOOK.format(1, 'tokens', 'image')} {HEADED.format('')} }}"
    weights = {k: v for k, v in WEIGHTS.items() if k != "w3"} | {"one": np.ones(8, np.float32)}
    assert reasons(text, **weights) == [LAST]
