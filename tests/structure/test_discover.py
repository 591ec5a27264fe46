"""Structure found in the mini models: sites, roles, scope, masks, parts, norms; and overrides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.structure import Part, Role, Structure, discover
from tests.graph.build import model, normal

Get = Callable[..., tuple[Model, Structure]]


@pytest.fixture(scope="module")
def get(minis: Callable[..., Any]) -> Get:
    held: dict[tuple[str, str], tuple[Model, Structure]] = {}

    def make(name: str, exporter: str = "torchscript") -> tuple[Model, Structure]:
        if (name, exporter) not in held:
            found = canonicalise(load(minis(name, exporter, dynamic_batch=True).path))
            held[name, exporter] = found, discover(found)
        return held[name, exporter]

    return make


both = pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])


def weights_in_float(structure: Structure) -> list[str]:
    return [s.consumer for s in structure.sites if s.role is Role.WEIGHT and not s.default]


def roles(structure: Structure) -> Counter[str]:
    return Counter(str(s.role) for s in structure.sites)


@both
def test_sam_encoder(get: Get, exporter: str) -> None:
    held, found = get("sam-encoder", exporter)
    assert roles(found) == {
        "weight": 15, "linear_input": 9, "gelu": 3, "conv_input": 3, "query": 3, "key": 3, "value": 3, "softmax": 3,
    }  # fmt: skip
    patch = next(iter(found.convs))
    assert weights_in_float(found) == [patch]
    assert [(a.heads, a.dim, a.queries, a.rel_h is not None) for a in found.attentions.values()] == [
        (3, 16, 25, True),
        (3, 16, 25, True),
        (3, 16, 144, True),
    ]
    for a in found.attentions.values():
        assert (a.q_source and a.q_source.exclusive, a.k_source and a.k_source.exclusive) == (False, True)
    padded = [n.padded for n in found.norm_readers.values()]
    assert padded == [True, False, True, False, False, False]
    assert all(n.exclusive and len(n.readers) == 1 for n in found.norm_readers.values())
    assert not found.matmuls
    assert held.opset == 21


@both
def test_sam_decoder(get: Get, exporter: str) -> None:
    _, found = get("sam-decoder", exporter)
    assert [a.token_to_image for a in found.attentions.values()] == [False, True, False, False, True, False, True]
    own = {s.linear for a in found.attentions.values() for s in (a.q_source, a.k_source, a.v_source) if s is not None}
    own |= {a.o_linear for a in found.attentions.values() if a.o_linear}
    assert len(own) == 28
    inside = {s.consumer for s in found.sites if s.role is Role.WEIGHT and s.default}
    assert own <= inside
    # What is left are the two linears of the MLP of each layer: prompt encoder and heads stay in float.
    assert len(inside) == len(own) + 4
    assert len(found.matmuls) == 1
    assert {s.default for s in found.sites if s.role is Role.MATMUL_INPUT} == {False}
    for a in found.attentions.values():
        assert all(s is not None and s.exclusive for s in (a.q_source, a.k_source, a.v_source))


@both
def test_bert(get: Get, exporter: str) -> None:
    _, found = get("bert", exporter)
    assert found.masks == {"attention_mask": "input_ids"}
    assert all(a.masked and len(a.additive) == 1 and not a.token_to_image for a in found.attentions.values())
    assert {s.part for s in found.sites} == {Part.TEXT}
    assert not weights_in_float(found)
    assert Counter(len(n.readers) for n in found.norm_readers.values()) == {3: 2, 1: 2, 0: 1}


@both
def test_lavt_parts(get: Get, exporter: str) -> None:
    held, found = get("lavt", exporter)
    by_part: dict[Part, Counter[str]] = {}
    ops = {n.name: n.op for n in held.graph.nodes}
    for name, part in found.parts.items():
        by_part.setdefault(part, Counter())[ops[name]] += 1
    assert set(by_part) == set(Part)
    # Each of four stages: six 1x1 projections, two products and a softmax; and a gate of two linears but in the last.
    assert by_part[Part.FUSION] == {"Conv": 24, "MatMul": 4 * 2 + 3 * 2, "Softmax": 4}
    assert by_part[Part.DECODER] == {"Conv": 7}
    assert by_part[Part.TEXT]["Softmax"] == 1
    assert by_part[Part.VISUAL]["Softmax"] == 5
    assert by_part[Part.VISUAL]["Conv"] == 1
    first, last = next(iter(found.convs)), list(found.convs)[-1]
    assert set(weights_in_float(found)) == {
        next(n for n, p in found.parts.items() if p is Part.VISUAL and ops[n] == "Conv"),
        last,
    }
    assert first
    assert {a.part for a in found.attentions.values() if a.masked} == {Part.TEXT, Part.FUSION}


def test_swin_norms_know_their_padding(get: Get) -> None:
    _, found = get("swin")
    for a in found.attentions.values():
        assert a.q_source is not None
        norm = next(n for n in found.norm_readers.values() if a.q_source.linear in n.readers)
        assert len(norm.readers) == 3
        assert norm.padded


def test_cnn(get: Get) -> None:
    held, found = get("cnn")
    assert not found.attentions
    convs = list(found.convs)
    head = [s.consumer for s in found.sites if s.role is Role.WEIGHT][-1]
    assert set(weights_in_float(found)) >= {convs[0], head}
    for site in found.sites:
        shape = held.tensor(site.tensor).shape
        assert site.channels == shape[site.axis]
        if site.role is Role.WEIGHT and site.consumer in found.convs:
            assert site.axis == (1 if found.convs[site.consumer].transpose else 0)
    # Pooling lies between the only GELU and the head: what the head reads is no GELU output any more.
    assert found.gelus
    assert Role.GELU not in {s.role for s in found.sites}


@pytest.mark.parametrize("name", ["sam-encoder", "sam-decoder", "bert", "vit", "swin", "cnn", "lavt"])
def test_keys_are_unique_and_in_graph_order(get: Get, name: str) -> None:
    held, found = get(name)
    keys = [s.key for s in found.sites]
    assert len(set(keys)) == len(keys)
    order = {n.name: i for i, n in enumerate(held.graph.nodes)}
    places = [order[s.consumer] for s in found.sites]
    assert places == sorted(places)
    tensors = held.graph.tensors()
    assert all(s.tensor in tensors for s in found.sites)
    assert discover(held) == found


def test_names_mean_nothing(get: Get) -> None:
    held, found = get("lavt")
    renamed = held.copy()
    for index, node in enumerate(renamed.graph.nodes):
        node.name = f"n{index}"
        for tensor in node.outputs:
            if not any(tensor is t for t in renamed.graph.outputs):
                tensor.name = f"t{index}_{tensor.name[-1]}"
    again = discover(renamed)
    said = [[(s.role, s.part, s.channels, s.axis, s.default) for s in structure.sites] for structure in (found, again)]
    assert said[0] == said[1]


def test_mask_by_name_and_none(get: Get) -> None:
    held, _ = get("bert")
    assert discover(held, mask="none").masks == {}
    assert not any(a.masked for a in discover(held, mask="none").attentions.values())
    assert discover(held, mask="attention_mask").masks == {"attention_mask": "input_ids"}
    with pytest.raises(InputError, match="attention_mask"):
        discover(held, mask="attn_mask")


def masked(nodes: str, kind: str = "int64[B,5]") -> Structure:
    """One head over [B,5,4] with something added to its scores."""
    proto = model(
        f"g (float[B,5,4] x, {kind} m) => (float[B,5,4] y) {{ {nodes} k = MatMul(x, w) kt = "
        f"Transpose<perm=[0,2,1]>(k) s = MatMul(x, kt) "
        "z = Add(s, t) p = Softmax<axis=-1>(z) y = MatMul(p, x) }",
        **{n: v for n, v in {
            "w": normal(4, 4), "one": np.float32(1), "far": np.float32(-1e4), "a": np.array([1]), "table": normal(9, 1),
        }.items() if n == "w" or f"{n})" in nodes or f"({n}," in nodes},
    )  # fmt: skip
    return discover(canonicalise(Model.from_proto(proto)))


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("f = Cast<to=1>(m) u = Unsqueeze(f, a) r = Sub(one, u) t = Mul(r, far)", "int64[B,5]"),
        ("b = Cast<to=9>(m) n = Not(b) u = Unsqueeze(n, a) f = Cast<to=1>(u) t = Mul(f, far)", "bool[B,5]"),
    ],
)
def test_masks_of_several_spellings(nodes: str, kind: str) -> None:
    found = masked(nodes, kind)
    assert found.masks == {"m": ""}
    assert all(a.masked for a in found.attentions.values())


def test_images_of_bytes_are_no_text() -> None:
    proto = model(
        "g (uint8[B,3,8,8] x) => (float[B,4,8,8] y) { f = Cast<to=1>(x) c = Conv(f, w) r = Relu(c) d = Conv(r, v) y "
        "= Relu(d) }",
        w=normal(4, 3, 1, 1),
        v=normal(4, 4, 1, 1),
    )
    assert {s.part for s in discover(canonicalise(Model.from_proto(proto))).sites} == {Part.VISUAL}


def test_what_a_convolution_takes_ranges_of_at_run_time() -> None:
    proto = model(
        "g (float[B,4,8,8] x) => (float[B,4,P,Q] y) { a = Conv(x, w) b = Conv<group = 4>(a, v) c = Conv<auto_pad = "
        '"SAME_UPPER">(b, u) d = ConvTranspose(c, w) y = Conv<strides = [2, 2]>(d, w) }',
        w=normal(4, 4, 1, 1),
        v=normal(4, 1, 3, 3),
        u=normal(4, 4, 3, 3),
    )
    found = discover(canonicalise(Model.from_proto(proto)))
    assert [conv.ranges for conv in found.convs.values()] == ["pixel", "channel", "", "", "sample"]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("e = Gather(table, m) q = Transpose<perm=[0,2,1]>(e) t = Identity(q)", "int64[B,5]"),
        ("t = Unsqueeze(m, a)", "float[B,5]"),
    ],
    ids=["positions that index a table", "a bias of floats"],
)
def test_what_is_no_mask(nodes: str, kind: str) -> None:
    assert masked(nodes, kind).masks == {}


def test_role_overrides(get: Get) -> None:
    held, found = get("sam-decoder")
    name = next(iter(found.attentions))
    changed = discover(held, roles={"token-to-image": f"^{name}$", "fusion": "Conv"})
    assert [n for n, a in changed.attentions.items() if a.token_to_image] == [name]
    assert {changed.parts[n] for n in changed.convs} == {Part.FUSION}
    with pytest.raises(InputError, match="no such role"):
        discover(held, roles={"encoder": "x"})
    with pytest.raises(InputError, match="matches no layer"):
        discover(held, roles={"text": "^nothing$"})
    with pytest.raises(InputError, match="not a regular expression"):
        discover(held, roles={"text": "("})


def test_one_layer_is_not_left_in_float() -> None:
    proto = model("g (float[B,3,8,8] x) => (float[B,4,8,8] y) { y = Conv(x, w) }", w=normal(4, 3, 1, 1))
    assert [s.default for s in discover(canonicalise(Model.from_proto(proto))).sites] == [True, True]


def test_a_model_without_sites() -> None:
    proto = model("g (float[B,4] x) => (float[B,4] y) { y = Relu(x) }")
    assert discover(canonicalise(Model.from_proto(proto))) == Structure()


def test_output_layer_is_not_the_end_of_a_skip_connection() -> None:
    text = (
        "g (float[B,8] x) => (float[B,8] y) { h = MatMul(x, w1) r = Relu(h) d = MatMul(r, w2) s = Add(h, "
        "d) f = Relu(s) e = MatMul(f, w3) "
    )
    weights = {n: normal(8, 8, seed=i) for i, n in enumerate(("w1", "w2", "w3"))}
    plain = discover(canonicalise(Model.from_proto(model(text + "y = Sigmoid(e) }", **weights))))
    assert weights_in_float(plain) == list(plain.linears)[-1:]
    skipping = discover(canonicalise(Model.from_proto(model(text + "g = Add(f, e) y = Relu(g) }", **weights))))
    assert weights_in_float(skipping) == []


def test_weights_that_are_no_matrix_are_no_linear() -> None:
    proto = model("g (float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, w) }", w=normal(2, 4, 5))
    found = discover(canonicalise(Model.from_proto(proto)))
    assert not found.linears
    assert not found.matmuls
