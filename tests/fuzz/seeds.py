"""Tiny models that mutations start from: between them every construct that the reader knows."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.graph.build import model, normal

NAMES = ("mlp", "attention", "conv", "shapes", "control", "function", "codes")


def seed(name: str) -> onnx.ModelProto:
    """One of the models of ``NAMES``, anew."""
    proto: onnx.ModelProto = globals()[f"_{name}"]()
    return proto


def _mlp() -> onnx.ModelProto:
    return model(
        """g (float[B,4,8] x) => (float[B,4,8] y)
        { p = MatMul(x, w) q = Add(p, b) r = LayerNormalization<axis = -1, epsilon = 0.00001>(q, s, t)
          h = Relu(r) y = MatMul(h, v) }""",
        w=normal(8, 40),
        b=normal(40, seed=1),
        s=normal(40, seed=2),
        t=normal(40, seed=3),
        v=normal(40, 8, seed=4),
    )


def _attention() -> onnx.ModelProto:
    return model(
        """g (float[1,6,8] x) => (float[1,6,8] y)
        { q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)
          q1 = Reshape(q0, heads) q = Transpose<perm = [0, 2, 1, 3]>(q1)
          k1 = Reshape(k0, heads) k = Transpose<perm = [0, 2, 3, 1]>(k1)
          v1 = Reshape(v0, heads) v = Transpose<perm = [0, 2, 1, 3]>(v1)
          s0 = MatMul(q, k) s1 = Mul(s0, half) s = Softmax<axis = -1>(s1)
          o0 = MatMul(s, v) o1 = Transpose<perm = [0, 2, 1, 3]>(o0) o = Reshape(o1, flat) y = MatMul(o, wo) }""",
        wq=normal(8, 8),
        wk=normal(8, 8, seed=1),
        wv=normal(8, 8, seed=2),
        wo=normal(8, 8, seed=3),
        heads=np.array([1, 6, 2, 4]),
        flat=np.array([1, 6, 8]),
        half=np.float32(0.5),
    )


def _conv() -> onnx.ModelProto:
    return model(
        """g (float[1,3,8,8] x) => (float[1,4,4,4] y, float[1,4] z)
        { p = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)
          q = BatchNormalization(p, s, t, m, u) y = Relu(q) a = GlobalAveragePool(y) z = Flatten(a) }""",
        w=normal(4, 3, 3, 3),
        b=normal(4),
        s=normal(4, seed=1),
        t=normal(4, seed=2),
        m=normal(4, seed=3),
        u=np.square(normal(4, seed=4)) + 0.5,
    )


def _shapes() -> onnx.ModelProto:
    return model(
        """g (float[B,T,8] x) => (float[B,T,8] y)
        { p = MatMul(x, w) sh = Shape(p) i0 = Constant<value = int64[1] {0}>() bt = Gather(sh, i0)
          rest = Constant<value = int64[2] {-1, 4}>() target = Concat<axis = 0>(bt, rest) q = Reshape(p, target)
          n = Gather<axis = 0>(table, index) r = Add(q, n) back = Constant<value = int64[3] {0, -1, 8}>()
          e = Erf(r) o = Slice(e, zero, four, last) y = Reshape(o, back) }""",
        w=normal(8, 8),
        table=normal(3, 4, seed=1),
        index=np.array([1]),
        zero=np.array([0]),
        four=np.array([4]),
        last=np.array([2]),
    )


def _control() -> onnx.ModelProto:
    return model(
        """g (float[2,8] x, bool which) => (float[2,8] y)
        { p = MatMul(x, w)
          q = If(which) <then_branch = a () => (float[2,8] t) { t = Add(p, b) },
                         else_branch = c () => (float[2,8] f) { f = Mul(p, b) }>
          y = Loop(three, yes, q) <body = l (int64 i, bool go, float[2,8] s) => (bool on, float[2,8] r)
                         { on = Identity(go) r = Tanh(s) }> }""",
        w=normal(8, 8),
        b=normal(8, seed=1),
        three=np.array(3),
        yes=np.array(True),
    )


def _function() -> onnx.ModelProto:
    proto = model("g (float[2,8] x) => (float[2,8] y) { p = MatMul(x, w) y = MatMul(p, w) }", w=normal(8, 8))
    body = [helper.make_node("MatMul", ["a", "k"], ["m"]), helper.make_node("Sigmoid", ["m"], ["n"])]
    inner = helper.make_function("local", "inner", ["a", "k"], ["n"], body, [helper.make_opsetid("", 17)])
    call = [helper.make_node("inner", ["a", "k"], ["n"], domain="local"), helper.make_node("Relu", ["n"], ["o"])]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    proto.functions.extend([inner, helper.make_function("local", "outer", ["a", "k"], ["o"], call, imports)])
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "outer", "local"
    return proto


def _codes() -> onnx.ModelProto:
    proto = model(
        """g (float[2,8] x) => (float[2,8] y)
        { w = DequantizeLinear<axis = 0>(wq, ws, wz) p = MatMul(x, w) c = QuantizeLinear(p, s, z)
          d = DequantizeLinear(c, s, z) y = Clip(d, low, ) }""",
        opset=21,
        wq=np.arange(-32, 32, dtype=np.int8).reshape(8, 8),
        ws=np.full(8, 0.03, np.float32),
        wz=np.zeros(8, np.int8),
        s=np.float32(0.05),
        z=np.uint8(128),
        low=np.float32(-1),
    )
    proto.ir_version = 10
    return proto
