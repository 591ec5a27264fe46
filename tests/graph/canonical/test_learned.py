"""Learned operands of an attention are shared by all samples of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from onnxptq.structure import discover
from tests.graph.build import normal, preserved
from tests.graph.canonical.test_attention import HEADS, OUT, PLAIN, PROJECT, SPLIT_KEYS, X, only, written

KEYED = (
    "b = MatMul(x, wk) b4 = Reshape(b, s4) c = MatMul(x, wv) c4 = Reshape(c, s4) v = Transpose<perm=[0,2,1,3]>(c4) "
    + SPLIT_KEYS
)


@pytest.mark.parametrize(
    ("nodes", "learned"),
    [
        ("s = MatMul(lq, kt) p = Softmax<axis=-1>(s) ", normal(1, 2, 6, 4)),
        ("s = MatMul(lq, kt) z = Mul(s, half) p = Softmax<axis=-1>(z) ", normal(2, 6, 4)),
        ("a = MatMul(lq, wq) a4 = Reshape(a, s4) q = Transpose<perm=[0,2,1,3]>(a4) " + PLAIN, normal(1, 6, 8)),
    ],
)
def test_learned_queries(nodes: str, learned: Any) -> None:
    """Pooling heads and the first layer of a decoder: what is learned stands for the queries of every sample."""
    held = preserved(written(HEADS + KEYED + nodes + OUT, lq=learned), X)
    found = only(held)
    assert (found.heads, found.dim, found.queries, found.fusable) == (2, 4, 6, True)
    assert found.q_source is None
    assert found.k_source is not None
    structure = discover(held)
    assert list(structure.left) == [found.o_linear]
    assert {s.role.value for s in structure.sites} >= {"query", "key", "value", "softmax"}


def test_learned_values() -> None:
    nodes = PROJECT.replace("v = Transpose<perm=[0,2,1,3]>(c4) ", "").replace("c = MatMul(x, wv) ", "")
    nodes = nodes.replace("c4 = Reshape(c, s4) ", "") + SPLIT_KEYS + PLAIN + OUT.replace("v)", "lv)")
    assert only(preserved(written(HEADS + nodes, lv=normal(1, 2, 6, 4)), X)).fusable
