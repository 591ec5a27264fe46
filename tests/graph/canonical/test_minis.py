"""Every mini model of both exporters: same outputs, canonical ops only, attentions that fit their definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.running.sessions import session
from onnxptq.structure import Structure, discover
from tests.graph.build import ops, same

NAMES = ("sam-encoder", "sam-decoder", "bert", "vit", "swin", "cnn", "lavt")
CASES = [("torchscript", False), ("torchscript", True), ("dynamo", True)]
GONE = {"Constant", "Identity", "Dropout", "Erf", "Gemm", "Einsum", "Size", "Mod"}

Minis = Callable[..., Any]


@pytest.fixture(
    scope="module", params=list(itertools.product(NAMES, CASES)), ids=lambda p: f"{p[0]}-{p[1][0]}{'-batch' * p[1][1]}"
)
def case(request: pytest.FixtureRequest, minis: Minis) -> tuple[Any, Model, Structure]:
    name, (exporter, batch) = request.param
    exported = minis(name, exporter, dynamic_batch=batch)
    held = canonicalise(load(exported.path))
    return exported, held, discover(held)


def test_outputs_are_the_same(case: tuple[Any, Model, Structure]) -> None:
    exported, held, _ = case
    same(onnx.load(exported.path), held, exported.feeds)


def test_only_canonical_ops_are_left(case: tuple[Any, Model, Structure]) -> None:
    _, held, _ = case
    assert not set(ops(held)) & GONE
    names = [node.name for node in held.graph.nodes]
    assert all(names)
    assert len(set(names)) == len(names)
    assert held.opset == 21


def test_reshapes_need_no_shape_arithmetic(case: tuple[Any, Model, Structure]) -> None:
    _, held, _ = case
    assert all(isinstance(n.inputs[1], gs.Constant) for n in held.graph.nodes if n.op == "Reshape")


def test_canonical_form_is_a_fixed_point_and_deterministic(case: tuple[Any, Model, Structure]) -> None:
    exported, held, _ = case
    once = held.to_proto().SerializeToString(deterministic=True)
    assert canonicalise(load(exported.path)).to_proto().SerializeToString(deterministic=True) == once
    assert ops(canonicalise(held)) == ops(held)
    assert held.to_proto().SerializeToString(deterministic=True) == once


def test_inferred_shapes_are_those_of_a_run(case: tuple[Any, Model, Structure]) -> None:
    exported, held, _ = case
    proto = held.to_proto()
    infos = {v.name: v for v in proto.graph.value_info}
    proto.graph.output.extend(v for v in infos.values() if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    names = [o.name for o in proto.graph.output]
    symbols: dict[str, int] = {}
    tensors = held.graph.tensors()
    for name, array in zip(names, session(proto, threads=1, optimize=False).run(names, exported.feeds), strict=True):
        shape = tensors[name].shape
        assert shape is not None, name
        assert len(shape) == array.ndim, name
        for dim, size in zip(shape, array.shape, strict=True):
            if isinstance(dim, int):
                assert dim == size, name
            elif isinstance(dim, str):
                assert symbols.setdefault(dim, size) == size, f"{name}: {dim}"


def test_attentions_compute_their_definition(case: tuple[Any, Model, Structure]) -> None:
    exported, held, structure = case
    if not structure.attentions:
        pytest.skip("has none")
    proto = held.to_proto()
    wanted: dict[str, None] = {}
    for a in structure.attentions.values():
        wanted |= dict.fromkeys(n for n in (a.q, a.k, a.v, a.output, a.rel_h, a.rel_w, *a.additive) if n is not None)
    constants = {c.name: np.asarray(c.values) for c in held.constants()}
    names = [n for n in wanted if n not in constants]
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in have)
    values = constants | dict(
        zip(names, session(proto, threads=1, optimize=False).run(names, exported.feeds), strict=True)
    )
    for a in structure.attentions.values():
        assert a.fusable
        scores = a.scale * values[a.q].astype(np.float64) @ np.swapaxes(values[a.k], -1, -2)
        for term in a.additive:
            assert np.broadcast_shapes(scores.shape, values[term].shape) == scores.shape
            scores = scores + values[term]
        if a.rel_h is not None and a.rel_w is not None:
            grid = values[a.rel_h][..., :, None] + values[a.rel_w][..., None, :]
            scores = scores + grid.reshape(scores.shape)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            p @ values[a.v], values[a.output], rtol=1e-4, atol=1e-4 * np.abs(values[a.output]).max()
        )
        assert a.dim == values[a.q].shape[-1]
        assert int(np.prod(values[a.q].shape[:-2])) % a.heads == 0
        assert a.queries in (None, values[a.q].shape[-2])
        assert a.keys in (None, values[a.k].shape[-2])


def test_sources_are_the_channels_they_say(case: tuple[Any, Model, Structure]) -> None:
    exported, held, structure = case
    sources = [
        (source, operand)
        for a in structure.attentions.values()
        for source, operand in ((a.q_source, a.q), (a.k_source, a.k), (a.v_source, a.v))
        if source is not None
    ]
    if not sources:
        pytest.skip("has none")
    proto = held.to_proto()
    names = list(dict.fromkeys(n for s, operand in sources for n in (structure.linears[s.linear].output, operand)))
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in have)
    values = dict(zip(names, session(proto, threads=1, optimize=False).run(names, exported.feeds), strict=True))
    for source, operand in sources:
        made = values[structure.linears[source.linear].output]
        flat = made.reshape(-1, made.shape[-1])
        moved = values[operand].reshape(-1, len(source.channels), *values[operand].shape[-2:])
        for head, dim in itertools.product(range(len(source.channels)), range(0, moved.shape[-1], 5)):
            np.testing.assert_array_equal(
                np.sort(flat[:, source.channels[head, dim]]), np.sort(moved[:, head, :, dim].reshape(-1))
            )


def test_output_projection_reads_the_channels_it_says(case: tuple[Any, Model, Structure]) -> None:
    exported, held, structure = case
    found = [a for a in structure.attentions.values() if a.o_linear is not None]
    if not found:
        pytest.skip("has none")
    proto = held.to_proto()
    names = list(dict.fromkeys(n for a in found for n in (a.output, structure.linears[str(a.o_linear)].input)))
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    values = dict(zip(names, session(proto, threads=1, optimize=False).run(names, exported.feeds), strict=True))
    for a in found:
        assert a.o_channels is not None
        read = values[structure.linears[str(a.o_linear)].input]
        made = values[a.output].reshape(-1, a.heads, *values[a.output].shape[-2:])
        for head in range(a.heads):
            for dim in range(0, made.shape[-1], 3):
                np.testing.assert_array_equal(
                    np.sort(read[..., a.o_channels[head, dim]].reshape(-1)), np.sort(made[:, head, :, dim].reshape(-1))
                )
