"""Every weight has one owner."""

from __future__ import annotations

from onnxptq.graph.canonical.unshare import unshare
from onnxptq.graph.model import Model
from tests.graph.build import model, normal, same


def test_each_reader_gets_its_own_name() -> None:
    proto = model(
        "g (float[2,4] x) => (float[2,4] y) { p = MatMul(x, w) q = MatMul(p, w) r = MatMul(q, w) y = Add(r, w_1) }",
        w=normal(4, 4),
        w_1=normal(4),
    )
    held = Model.from_proto(proto)
    unshare(held)
    weights = [node.inputs[1] for node in held.graph.nodes]
    assert [tensor.name for tensor in weights] == ["w", "w_2", "w_3", "w_1"]
    assert all(len(tensor.outputs) == 1 for tensor in weights)
    same(proto, held, {"x": normal(2, 4)})
