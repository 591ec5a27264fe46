"""Attention as exporters write it: operands, scales, NaN guards, windows and relative position in one form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxptq.graph.model import Model
from onnxptq.structure import Attention, discover
from tests.graph.build import model, normal, ops, preserved

HEADS = "s4 = Constant<value_ints=[0,0,2,4]>() "
PROJECT = (
    "a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv) "
    "a4 = Reshape(a, s4) b4 = Reshape(b, s4) c4 = Reshape(c, s4) q = Transpose<perm=[0,2,1,3]>(a4) v = "
    "Transpose<perm=[0,2,1,3]>(c4) "
)
SPLIT_KEYS = "k = Transpose<perm=[0,2,1,3]>(b4) kt = Transpose<perm=[0,1,3,2]>(k) "
OUT = "o = MatMul(p, v) ot = Transpose<perm=[0,2,1,3]>(o) of = Reshape(ot, s3) y = MatMul(of, wo)"
PLAIN = "s = MatMul(q, kt) z = Mul(s, half) p = Softmax<axis=-1>(z) "
WEIGHTS: dict[str, Any] = {n: normal(8, 8, seed=i) for i, n in enumerate(("wq", "wk", "wv", "wo"))}
NUMBERS = {
    "half": np.float32(0.5),
    "two": np.float32(2),
    "root": np.float32(0.5**0.5),
    "zero": np.float32(0),
    "s3": np.array([0, 0, 8]),
}
X = {"x": normal(3, 6, 8, seed=9)}


def written(nodes: str, **extra: Any) -> onnx.ModelProto:
    held = WEIGHTS | NUMBERS | extra
    used = {k: v for k, v in held.items() if f"{k})" in nodes or f"({k}," in nodes or f" {k}," in nodes}
    return model(f"g (float[B,6,8] x) => (float[B,6,8] y) {{ {nodes} }}", **used)


def only(held: Model) -> Attention:
    (found,) = discover(held).attentions.values()
    return found


SPELLINGS = {
    "scaled scores": SPLIT_KEYS + PLAIN,
    "divided scores": SPLIT_KEYS + "s = MatMul(q, kt) z = Div(s, two) p = Softmax<axis=-1>(z) ",
    "scaled queries": SPLIT_KEYS + "qs = Mul(q, half) s = MatMul(qs, kt) p = Softmax<axis=-1>(s) ",
    "scaled both": SPLIT_KEYS + "qs = Mul(q, root) ks = Mul(root, kt) s = MatMul(qs, ks) p = Softmax<axis=3>(s) ",
    "scaled keys": "k = Transpose<perm=[0,2,1,3]>(b4) ks = Mul(k, half) kt = Transpose<perm=[0,1,3,2]>(ks) "
    "s = MatMul(q, kt) p = Softmax<axis=-1>(s) ",
    "merged transposition": "kt = Transpose<perm=[0,2,3,1]>(b4) " + PLAIN,
    "late split": "m = Constant<value_ints=[-1,6,4]>() n = Constant<value_ints=[-1,2,4,6]>() k = "
    "Transpose<perm=[0,2,1,3]>(b4) "
    "k3 = Reshape(k, m) kt3 = Transpose<perm=[0,2,1]>(k3) ks = Mul(kt3, two) kt4 = Reshape(ks, n) kt = Div(kt4, two) "
    + PLAIN,
    "merged axes": "k = Transpose<perm=[0,2,1,3]>(b4) m = Constant<value_ints=[-1,6,4]>() n = "
    "Constant<value_ints=[-1,2,4,6]>() "
    "k3 = Reshape(k, m) kt3 = Transpose<perm=[0,2,1]>(k3) kt = Reshape(kt3, n) " + PLAIN,
    "einsum": 'k = Transpose<perm=[0,2,1,3]>(b4) s = Einsum<equation="bhid,bhjd->bhij">(q, k) '
    "z = Mul(s, half) p = Softmax<axis=-1>(z) ",
    "guarded": SPLIT_KEYS
    + "s = MatMul(q, kt) z = Mul(s, half) pp = Softmax<axis=-1>(z) bad = IsNaN(pp) p = Where(bad, zero, pp) ",
}


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings(nodes: str) -> None:
    held = preserved(written(HEADS + PROJECT + nodes + OUT), X)
    found = only(held)
    assert found.scale == pytest.approx(0.5)
    assert (found.heads, found.dim, found.queries, found.keys, found.fusable) == (2, 4, 6, 6, True)
    lines = discover(held).linears
    for source, weight in ((found.q_source, "wq"), (found.k_source, "wk"), (found.v_source, "wv")):
        assert source is not None
        assert lines[source.linear].weight.startswith(weight)
        assert source.exclusive
        np.testing.assert_array_equal(source.channels, np.arange(8).reshape(2, 4))
    assert found.o_linear is not None
    np.testing.assert_array_equal(found.o_channels, np.arange(8).reshape(2, 4))
    assert ops(held)["IsNaN"] == ops(held)["Einsum"] == 0


def test_early_scale_moves_behind_the_reshape() -> None:
    nodes = PROJECT.replace("a4 = Reshape(a, s4)", "as = Mul(a, half) a4 = Reshape(as, s4)") + SPLIT_KEYS
    held = preserved(written(HEADS + nodes + "s = MatMul(q, kt) p = Softmax<axis=-1>(s) " + OUT), X)
    assert only(held).scale == pytest.approx(0.5)
    assert only(held).q_source is not None


@pytest.mark.parametrize("scaled", ["z = Mul(s, factors) ", "h = Mul(s, half) z = Mul(factors, h) "])
def test_a_scale_of_each_head_goes_to_the_queries(scaled: str) -> None:
    """Cosine attention, as in Swin V2."""
    factors = np.array([0.3, 2], np.float32).reshape(2, 1, 1)
    nodes = HEADS + PROJECT + SPLIT_KEYS + "s = MatMul(q, kt) " + scaled + "p = Softmax<axis=-1>(z) " + OUT
    held = preserved(written(nodes, factors=factors), X)
    assert only(held).fusable
    assert only(held).heads == 2
    odd = preserved(written(nodes, factors=normal(2, 1, 6)), X)
    assert not only(odd).fusable
    read = nodes.replace("y = MatMul(of, wo)", "yy = MatMul(of, wo) m = ReduceMean(s) y = Add(yy, m)")
    assert not only(preserved(written(read, factors=factors), X)).fusable


def test_shared_operand_is_not_exclusive() -> None:
    nodes = HEADS + PROJECT + SPLIT_KEYS.replace("b4", "a4") + PLAIN + OUT
    held = preserved(written(nodes.replace("b = MatMul(x, wk) ", "").replace("b4 = Reshape(b, s4) ", "")), X)
    found = only(held)
    assert found.q_source is not None
    assert found.k_source is not None
    assert not found.q_source.exclusive
    assert not found.k_source.exclusive
    assert found.v_source is not None
    assert found.v_source.exclusive


def test_scores_read_elsewhere_cannot_be_fused() -> None:
    nodes = (
        SPLIT_KEYS + PLAIN + OUT.replace("y = MatMul(of, wo)", "yy = MatMul(of, wo) m = ReduceMean(s) y = Add(yy, m)")
    )
    assert not only(preserved(written(HEADS + PROJECT + nodes), X)).fusable


def test_guard_stays_where_a_row_may_be_masked_throughout() -> None:
    nodes = (
        SPLIT_KEYS
        + "s = MatMul(q, kt) sm = Add(s, mask) pp = Softmax<axis=-1>(sm) bad = IsNaN(pp) p = Where(bad, zero, pp) "
    )
    mask = np.zeros((6, 6), dtype=np.float32)
    mask[2] = -np.inf
    held = preserved(written(HEADS + PROJECT + nodes + OUT, mask=mask), X)
    found = only(held)
    assert ops(held)["IsNaN"] == 1
    assert found.fusable
    assert found.probabilities == held.nodes()[found.av].inputs[0].name
    assert held.tensor(found.probabilities).inputs[0].op == "Where"


FILLS = {
    "masked_fill": ("n = Not(allowed) m = Where(n, low, z)", {"low": np.float32(-3.4028235e38)}),
    "where": ("m = Where(allowed, z, low)", {"low": np.array([-1e9], dtype=np.float32)}),
    "infinite": ("m = Where(allowed, z, low)", {"low": np.float32(-np.inf)}),
}


@pytest.mark.parametrize(("nodes", "extra"), FILLS.values(), ids=FILLS)
def test_scores_chosen_by_a_mask_become_a_sum(nodes: str, extra: dict[str, Any]) -> None:
    text = f"{SPLIT_KEYS}s = MatMul(q, kt) z = Mul(s, half) {nodes} p = Softmax<axis=-1>(m) "
    allowed = normal(6, 6) > -0.5
    allowed[:, 0] = True
    held = preserved(written(HEADS + PROJECT + text + OUT, allowed=allowed, **extra), X)
    found = only(held)
    assert found.fusable
    assert len(found.additive) == 1


def test_mild_fills_and_widening_conditions_stay() -> None:
    text = SPLIT_KEYS + "s = MatMul(q, kt) z = Mul(s, half) m = Where(allowed, z, low) p = Softmax<axis=-1>(m) "
    mild = preserved(written(HEADS + PROJECT + text + OUT, allowed=normal(6, 6) > 0, low=np.float32(-5)), X)
    assert not only(mild).fusable


def test_probabilities_masked_behind_the_softmax() -> None:
    text = SPLIT_KEYS + PLAIN.replace("p = ", "pp = ") + "p = Where(drop, zero, pp) "
    held = preserved(written(HEADS + PROJECT + text + OUT, drop=normal(6, 6) > 1), X)
    found = only(held)
    assert not found.fusable
    assert held.tensor(found.probabilities).inputs[0].op == "Where"
    assert found.o_linear is not None


MERGED = (
    "m3 = Constant<value_ints=[-1,6,4]>() f4 = Constant<value_ints=[-1,2,6,6]>() f3 = Constant<value_ints=[-1,6,6]>() "
    "h4 = Constant<value_ints=[-1,2,6,4]>() k = Transpose<perm=[0,2,1,3]>(b4) q3 = Reshape(q, m3) k3 = Reshape(k, "
    "m3) v3 = Reshape(v, m3) "
    "kt = Transpose<perm=[0,2,1]>(k3) s = MatMul(q3, kt) z = Mul(s, half) "
)
HALVES = {
    "split and merged before the softmax": "z4 = Reshape(z, f4) m4 = Add(z4, mask) z3 = Reshape(m4, f3) p3 = "
    "Softmax<axis=-1>(z3) ",
    "merged behind the softmax": "z4 = Reshape(z, f4) m4 = Add(z4, mask) p4 = Softmax<axis=-1>(m4) p3 = Reshape(p4, "
    "f3) ",
    "a term of its own before": "b3 = MatMul(q3, table) zb = Add(z, b3) z4 = Reshape(zb, f4) m4 = Add(z4, mask) p4 = "
    "Softmax<axis=-1>(m4) "
    "p3 = Reshape(p4, f3) ",
}


@pytest.mark.parametrize("nodes", HALVES.values(), ids=HALVES)
def test_merged_heads_are_split_throughout(nodes: str) -> None:
    end = OUT.replace("o = MatMul(p, v)", "o3 = MatMul(p3, v3) o = Reshape(o3, h4)")
    held = preserved(
        written(HEADS + PROJECT + MERGED + nodes + end, mask=normal(1, 1, 1, 6, seed=7), table=normal(4, 6, seed=8)), X
    )
    found = only(held)
    assert found.fusable
    assert found.heads == 2
    assert len(held.tensor(found.q).shape) == 4
    assert found.q_source is not None
    assert found.o_linear is not None
    assert ops(held)["Reshape"] <= (6 if "table" in nodes else 4)


def test_softmax_over_another_axis_is_no_attention() -> None:
    held = preserved(written(HEADS + PROJECT + SPLIT_KEYS + PLAIN.replace("axis=-1", "axis=1") + OUT), X)
    assert not discover(held).attentions
    assert len(discover(held).matmuls) == 2


def test_classifier_softmax_is_no_attention() -> None:
    proto = model(
        "g (float[B,6,8] x) => (float[B,6,8] y) { s = MatMul(x, wq) p = Softmax<axis=-1>(s) y = MatMul(p, wk) }",
        **{k: WEIGHTS[k] for k in ("wq", "wk")},
    )
    held = preserved(proto, X)
    assert not discover(held).attentions
    assert len(discover(held).linears) == 2


WINDOWS = (
    SPLIT_KEYS
    + "s = MatMul(q, kt) z = Mul(s, half) zb = Add(z, bias) five = Reshape(zb, s5) m5 = Add(five, mask) back = "
    "Reshape(m5, s4b) "
    "p = Softmax<axis=-1>(back) "
)


def windows(**changed: Any) -> onnx.ModelProto:
    """Three windows an image, two heads."""
    held = {
        "bias": normal(1, 2, 6, 6, seed=5),
        "mask": np.where(normal(3, 1, 6, 6, seed=6) > 1, np.float32(-100), np.float32(0)).reshape(1, 3, 1, 6, 6),
        "s5": np.array([-1, 3, 2, 6, 6]),
        "s4b": np.array([-1, 2, 6, 6]),
    } | changed
    used = {k: v for k, v in (WEIGHTS | NUMBERS | held).items() if k not in ("two", "root", "zero")}
    nodes = "x = Reshape(image, into) " + HEADS + PROJECT + WINDOWS + OUT.replace("y =", "w =") + " y = Reshape(w, out)"
    return model(
        f"g (float[B,18,8] image) => (float[B,18,8] y) {{ {nodes} }}",
        **used,
        into=np.array([-1, 6, 8]),
        out=np.array([-1, 18, 8]),
    )


def test_window_reshape_moves_to_the_operands() -> None:
    held = preserved(windows(), {"image": normal(2, 18, 8, seed=9)})
    found = only(held)
    assert found.fusable
    assert len(found.additive) == 2
    assert len(held.tensor(found.q).shape) == len(held.tensor(found.output).shape) == 5
    assert found.heads == 2
    assert found.q_source is not None
    assert found.o_linear is not None


def test_window_reshape_that_splits_heads_stays() -> None:
    held = preserved(
        windows(s5=np.array([-1, 2, 3, 6, 6]), mask=normal(1, 1, 3, 6, 6)), {"image": normal(2, 18, 8, seed=9)}
    )
    assert not only(held).fusable


GRID = {
    "added to the grid": "g5 = Reshape(z, s5) r5 = Unsqueeze(rh, a4x) c5 = Unsqueeze(rw, a3x) g1 = Add(g5, r5) g2 = "
    "Add(g1, c5) "
    "t = Reshape(g2, s4b) p = Softmax<axis=-1>(t) ",
    "columns first": "g5 = Reshape(z, s5) r5 = Unsqueeze(rh, a4x) c5 = Unsqueeze(rw, a3x) g1 = Add(c5, g5) g2 = "
    "Add(r5, g1) "
    "t = Reshape(g2, s4b) p = Softmax<axis=-1>(t) ",
    "summed first": "r5 = Unsqueeze(rh, a4x) c5 = Unsqueeze(rw, a3x) rel = Add(r5, c5) flat = Reshape(rel, s4b) t = "
    "Add(z, flat) "
    "p = Softmax<axis=-1>(t) ",
}


@pytest.mark.parametrize("nodes", GRID.values(), ids=GRID)
def test_decomposed_relative_position(nodes: str) -> None:
    terms = (
        'q5 = Reshape(q, sq) rh = Einsum<equation="bhwc,hkc->bhwk">(q5, th) rw = '
        'Einsum<equation="bhwc,wkc->bhwk">(q5, tw) '
    )
    text = HEADS + PROJECT.replace(
        "q = Transpose<perm=[0,2,1,3]>(a4)", "qq = Transpose<perm=[0,2,1,3]>(a4) q = Reshape(qq, sm)"
    )
    text = text.replace("v = Transpose<perm=[0,2,1,3]>(c4)", "vv = Transpose<perm=[0,2,1,3]>(c4) v = Reshape(vv, sm)")
    text += (
        "kk = Transpose<perm=[0,2,1,3]>(b4) k = Reshape(kk, sm) kt = Transpose<perm=[0,2,1]>(k) s = "
        "MatMul(q, kt) z = Mul(s, half) "
    )
    text += terms + nodes
    text += OUT.replace("ot = Transpose<perm=[0,2,1,3]>(o)", "o4 = Reshape(o, sh) ot = Transpose<perm=[0,2,1,3]>(o4)")
    proto = written(
        text,
        sm=np.array([-1, 6, 4]),
        sh=np.array([-1, 2, 6, 4]),
        sq=np.array([-1, 2, 3, 4]),
        s5=np.array([-1, 2, 3, 2, 3]),
        s4b=np.array([-1, 6, 6]),
        a4x=np.array([4]),
        a3x=np.array([3]),
        th=normal(2, 2, 4, seed=3),
        tw=normal(3, 3, 4, seed=4),
    )
    held = preserved(proto, X)
    found = only(held)
    assert found.fusable
    assert found.rel_h is not None
    assert found.rel_w is not None
    assert held.tensor(found.rel_h).shape[-2:] == [6, 2]
    assert held.tensor(found.rel_w).shape[-2:] == [6, 3]
    assert found.q_source is not None
    assert not found.q_source.exclusive
    assert found.k_source is not None
    assert found.k_source.exclusive
    assert found.heads == 2
