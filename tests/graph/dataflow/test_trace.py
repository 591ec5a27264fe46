"""Traced channel numbers agree with the positions of onnxruntime's outputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.dataflow.trace import Tracer, columns, heads, is_padded, sample_shapes
from onnxptq.graph.model import Model
from tests.graph.build import model, normal, run


def random_chain(data: st.DataObject, shape: list[int]) -> tuple[str, dict[str, np.ndarray], list[int]]:
    """Nodes from x to y that move the numbers of a tensor of this shape."""
    nodes, constants, here = [], {}, "x"
    for step in range(data.draw(st.integers(1, 5))):
        out = f"t{step}"
        kind = data.draw(st.sampled_from(["transpose", "merge", "split", "pad", "slice", "roll", "gather"]))
        axis = data.draw(st.integers(0, len(shape) - 1))
        if kind == "transpose":
            perm = list(data.draw(st.permutations(range(len(shape)))))
            shape = [shape[i] for i in perm]
            nodes.append(f"{out} = Transpose<perm={perm}>({here})")
        elif kind == "merge" and len(shape) > 2 and axis + 1 < len(shape):
            shape = [*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]]
            constants[f"s{step}"] = np.array(shape)
            nodes.append(f"{out} = Reshape({here}, s{step})")
        elif kind == "split" and shape[axis] % 2 == 0 and len(shape) < 6:
            shape = [*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :]]
            constants[f"s{step}"] = np.array(shape)
            nodes.append(f"{out} = Reshape({here}, s{step})")
        elif kind == "pad":
            pads = [0] * (2 * len(shape))
            pads[axis] = 1
            shape = [d + (i == axis) for i, d in enumerate(shape)]
            constants[f"s{step}"] = np.array(pads)
            nodes.append(f"{out} = Pad({here}, s{step})")
        elif kind == "slice" and shape[axis] > 2:
            constants |= {f"a{step}": np.array([1]), f"b{step}": np.array([shape[axis]]), f"c{step}": np.array([axis])}
            shape = [d - (i == axis) for i, d in enumerate(shape)]
            nodes.append(f"{out} = Slice({here}, a{step}, b{step}, c{step})")
        elif kind == "roll" and shape[axis] > 2:
            constants |= {
                f"z{step}": np.array([0]),
                f"a{step}": np.array([1]),
                f"b{step}": np.array([shape[axis]]),
                f"c{step}": np.array([axis]),
            }
            nodes.append(
                f"u{step} = Slice({here}, a{step}, b{step}, c{step}) v{step} = Slice({here}, z{step}, a{step}, c{step})"
            )
            nodes.append(f"{out} = Concat<axis={axis}>(u{step}, v{step})")
        elif kind == "gather":
            picks = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=3))
            constants[f"s{step}"] = np.array(picks)
            shape = [len(picks) if i == axis else d for i, d in enumerate(shape)]
            nodes.append(f"{out} = Gather<axis={axis}>({here}, s{step})")
        else:
            nodes.append(f"{out} = Identity({here})")
        here = out
    return " ".join(nodes) + f" y = Identity({here})", constants, shape


@given(st.data())
def test_random_chains(data: st.DataObject) -> None:
    shape = [2, 3, 8]
    nodes, constants, made = random_chain(data, shape)
    proto = model(f"g (float[2,3,8] x) => (float[{','.join(map(str, made))}] y) {{ {nodes} }}", **constants)
    held = Model.from_proto(proto)
    held.graph.toposort()
    numbers = np.broadcast_to(np.arange(1, 9, dtype=np.int32), shape)
    found = Tracer(held).channels(held.tensor("x"), held.tensor("y"))
    assert found is not None
    np.testing.assert_array_equal(found, run(proto, {"x": np.ascontiguousarray(numbers.astype(np.float32))})[0])


PACKINGS = {
    "three, heads, dim": (
        "Reshape(p, s5) t = Transpose<perm=[2,0,3,1,4]>(r)",
        [0, 0, 3, 2, 4],
        [[[0, 1, 2, 3], [4, 5, 6, 7]], 8, 16],
    ),
    "heads, three, dim": (
        "Reshape(p, s5) t = Transpose<perm=[3,0,2,1,4]>(r)",
        [0, 0, 2, 3, 4],
        [[[0, 1, 2, 3], [12, 13, 14, 15]], 4, 8],
    ),
    "dim, heads, three": (
        "Reshape(p, s5) t = Transpose<perm=[4,0,3,1,2]>(r)",
        [0, 0, 4, 2, 3],
        [[[0, 6, 12, 18], [3, 9, 15, 21]], 1, 2],
    ),
}


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_packings_of_fused_qkv(packing: tuple[str, list[int], list[object]]) -> None:
    chain, target, (first, second, third) = packing
    proto = model(
        "g (float[B,5,6] x) => (float[B,2,5,4] q, float[B,2,5,4] k, float[B,2,5,4] v)"
        f"{{ p = MatMul(x, w) r = {chain} q = Gather<axis=0>(t, i0) k = Gather<axis=0>(t, i1) v = Gather<axis=0>(t, "
        f"i2) }}",
        w=normal(6, 24),
        s5=np.array(target),
        i0=np.array(0),
        i1=np.array(1),
        i2=np.array(2),
    )
    held = canonicalise(Model.from_proto(proto))
    tracer = Tracer(held)
    start = next(n for n in held.graph.nodes if n.op == "MatMul").outputs[0]
    for name, shift in (("q", 0), ("k", second), ("v", third)):
        numbers = tracer.channels(start, held.tensor(name))
        assert numbers is not None
        found = heads(numbers)
        assert found is not None
        np.testing.assert_array_equal(found, np.array(first) + shift)


def test_heads_need_the_same_channel_at_every_token() -> None:
    mixed = np.arange(1, 13, dtype=np.int32).reshape(1, 3, 4)
    assert heads(mixed) is None
    assert heads(np.zeros((1, 2, 2), dtype=np.int32)) is None
    assert heads(np.zeros((0, 2, 2), dtype=np.int32)) is None
    swapped = np.array([[[1, 2]], [[3, 4]], [[3, 4]], [[1, 2]]], dtype=np.int32)
    assert heads(swapped) is None
    plain = np.array([[[1, 2]], [[3, 4]], [[1, 2]], [[3, 4]]], dtype=np.int32)
    np.testing.assert_array_equal(heads(plain), [[0, 1], [2, 3]])


def test_columns_and_padding() -> None:
    numbers = np.array([[1, 2], [0, 0], [1, 2]], dtype=np.int32)
    np.testing.assert_array_equal(columns(numbers), [0, 1])
    assert is_padded(numbers)
    assert not is_padded(numbers[:1])
    assert columns(np.array([[1, 2], [2, 1]], dtype=np.int32)) is None


def test_readers_and_origin_pass_moves_and_ignore_shapes() -> None:
    proto = model(
        "g (float[2,3,4] x) => (float[4,6] y, int64[3] s)"
        "{ a = Relu(x) r = Reshape(a, t) q = Transpose<perm=[1,0]>(r) y = Relu(q) s = Shape(a) }",
        t=np.array([6, 4]),
    )
    held = Model.from_proto(proto)
    tracer = Tracer(held)
    assert [t.name for t in tracer.origin(held.tensor("q"))] == ["a"]
    assert [(r.tensor.name, r.node and r.node.op) for r in tracer.readers(held.tensor("a"))] == [("q", "Relu")]
    assert [(r.tensor.name, r.node) for r in tracer.readers(held.tensor("y"))] == [("y", None)]


def test_what_cannot_be_followed_is_none() -> None:
    proto = model("g (float[2,3,4] x, int64[2] t) => (float[A,C] y) { y = Reshape(x, t) }")
    held = Model.from_proto(proto)
    assert Tracer(held).channels(held.tensor("x"), held.tensor("y")) is None


def test_sizes_traced_with_tell_batch_and_heads_apart() -> None:
    proto = model(
        "g (float[B,3,H,W] x, int64[B,T] i) => (float[B,3,H,W] y, int64[B,T] z) { y = Relu(x) z = Identity(i) }"
    )
    shapes = sample_shapes(Model.from_proto(proto))
    assert shapes == {"x": [2, 3, 64, 64], "i": [2, 5]}
    assert all(a != b for a, b in itertools.pairwise(shapes["i"]))


def test_constant_operands_of_any_type_are_no_channel() -> None:
    proto = model("g (float[2,4] x) => (float[2,6] y) { y = Concat<axis=1>(x, c) }", c=normal(2, 2))
    held = Model.from_proto(proto)
    numbers = Tracer(held).channels(held.tensor("x"), held.tensor("y"))
    assert numbers is not None
    np.testing.assert_array_equal(columns(numbers), [0, 1, 2, 3, -1, -1])
