"""Coded edges around float ops: scales by head in every layout of heads; codes that QDQ cannot express."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxptq import Quantizer
from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.lower.edges import code_edge
from onnxptq.lower.writer import Writer
from onnxptq.ops import schemes
from onnxptq.ops.rows import TokenParams, row_range
from onnxptq.ops.uniform import UniformParams, affine_codes, affine_values
from onnxptq.plan import Choice, Plan
from onnxptq.running.metrics import metrics
from onnxptq.running.sessions import Executor, session
from onnxptq.structure import Structure
from tests.graph.build import model

Minis = Callable[..., Any]
HEADS, ROWS, WIDTH = 3, 4, 2
AXES = {"pixel": (1,), "channel": (2, 3), "sample": (1, 2, 3)}
BY_HEAD = {f"{role}.granularity": "head" for role in ("query", "key", "value")}


def product(shape: Sequence[int | str]) -> onnx.ModelProto:
    """y = x w for x [..., ROWS, WIDTH]."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, [WIDTH, WIDTH], rng.normal(0, 1, WIDTH * WIDTH))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("executor", [pytest.param("native", marks=pytest.mark.native), "function"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ([4 * HEADS, ROWS, WIDTH], 4),
        (["many", ROWS, WIDTH], 4),
        (["many", "rows", WIDTH], 1),
        ([HEADS, ROWS, WIDTH], 1),
        (["batch", HEADS, ROWS, WIDTH], 2),
    ],
)
def test_scales_by_head(shape: Sequence[int | str], batch: int, per_channel: bool, executor: Executor) -> None:
    """Heads with an axis of their own, or counted together with the batch: the index modulo the heads is the head."""
    rng = np.random.default_rng(1)
    size = (HEADS, 1, WIDTH) if per_channel else (HEADS, 1, 1)
    params = UniformParams(
        4, rng.uniform(0.05, 0.5, size).astype(np.float32), rng.integers(4, 12, size).astype(np.uint8)
    )
    choice = Choice(
        "uniform", "minmax", 4, "channel" if per_channel else "head", params=params, options={"heads": HEADS}
    )
    proto = product(shape)
    writer = Writer(load(proto), Structure(), Plan({}))
    code_edge(writer, "x", "product", choice, "value")
    x = rng.normal(0, 2, (batch, HEADS, ROWS, WIDTH)).astype(np.float32)
    coded = np.clip(np.rint(x / params.scale) + params.zero, 0, 15)
    fed = x if len(shape) == 4 else x.reshape(-1, ROWS, WIDTH)
    got = session(writer.finish("fp32").proto, executor=executor, threads=1).run(None, {"x": fed})[0]
    expected = session(proto, threads=1).run(
        None, {"x": ((coded - params.zero) * params.scale).astype(np.float32).reshape(fed.shape)}
    )[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("executor", [pytest.param("native", marks=pytest.mark.native), "function"])
@pytest.mark.parametrize("granularity", ["row", "column"])
def test_ranges_at_run_time(granularity: str, executor: Executor) -> None:
    """Each row, or each column, takes its own range."""
    proto = product(["batch", HEADS, ROWS, WIDTH])
    writer = Writer(load(proto), Structure(), Plan({}))
    code_edge(writer, "x", "product", Choice("token", "token", 4, granularity, params=TokenParams(4)), "value")
    x = np.random.default_rng(1).normal(0, 2, (2, HEADS, ROWS, WIDTH)).astype(np.float32)
    lines = x if granularity == "row" else x.swapaxes(-1, -2)
    coded = schemes()["token"].fake(lines, TokenParams(4))
    coded = coded if granularity == "row" else coded.swapaxes(-1, -2)
    got = session(writer.finish("fp32").proto, executor=executor, threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, session(proto, threads=1).run(None, {"x": coded})[0], atol=1e-5)


@pytest.mark.parametrize("executor", [pytest.param("native", marks=pytest.mark.native), "function"])
@pytest.mark.parametrize("granularity", AXES)
def test_ranges_of_images_at_run_time(granularity: str, executor: Executor) -> None:
    """Each pixel, channel or sample takes its own range, also where sizes are not known."""
    proto = model("g (float[B,6,H,W] x) => (float[B,4,P,Q] y) { y = Conv(x, w) }", w=np.ones((4, 6, 1, 1), np.float32))
    held = canonicalise(load(proto))
    writer = Writer(held, Structure(), Plan({}))
    choice = Choice("token", "token", 4, granularity, params=TokenParams(4))
    code_edge(writer, "x", held.graph.nodes[0].name, choice, "input")
    x = np.random.default_rng(1).normal(0, 2, (2, 6, 3, 5)).astype(np.float32)
    scale, zero = row_range(x, 4, AXES[granularity])
    coded = affine_values(affine_codes(x, scale, zero, 4), scale, zero)
    got = session(writer.finish("fp32").proto, executor=executor, threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, session(proto, threads=1).run(None, {"x": coded})[0], atol=1e-5)


@pytest.mark.parametrize("name", ["sam-encoder", "bert"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_formats_agree_where_heads_have_scales(minis: Minis, name: str, dynamic: bool) -> None:
    """Windows and heads of SAM's encoder are counted together; the softmax in float keeps its attention unfused."""
    from onnxptq.models import mini

    path = minis(name, dynamic_batch=dynamic).path
    how: dict[str, Any] = {"recipe": "minmax", "settings": BY_HEAD, "exclude": [":softmax$"], "threads": 1}
    results = {}
    for form in ("native", "portable", "qdq"):
        q = Quantizer(path, format=form, **how)
        q.calibrate(mini.samples(name, 3))
        results[form] = q.quantize()
    sample = mini.samples(name, 1, seed=5, batch=2 if dynamic else 1)[0]
    expected = session(path, threads=1).run(None, sample)[0]
    for result in results.values():
        got = result.session(threads=1).run(None, sample)[0]
        assert metrics(expected, got).sqnr > 25
    with pytest.raises(InputError, match="uniform by head"):
        Quantizer(path, format="qdq", strict=True, **how).calibrate(mini.samples(name, 3))


@pytest.mark.parametrize("bits", ["w4a4", "w6a6", "w8a8"])
@pytest.mark.parametrize("name", ["sam-encoder", "bert"])
def test_softmax_of_standard_codes(minis: Minis, name: str, bits: str) -> None:
    """Standard ops say of a softmax relative to its row's largest what our own say. Not optimized: 4-bit pairs would be
    moved about."""
    from onnxptq.models import mini

    path = minis(name).path
    settings = {"softmax.calibrator": "softmax"}
    how: dict[str, Any] = {"bits": bits, "recipe": "minmax", "settings": settings, "strict": True, "threads": 1}
    made = [Quantizer(path, format=form, constants="fp32", **how) for form in ("native", "qdq")]
    plan, _ = (q.calibrate(mini.samples(name, 3)) for q in made)
    assert {bool(plan[key].options["norm"]) for key in plan if key.endswith(":softmax")} <= (
        {False} if bits == "w8a8" else {True, False}
    )
    sample = mini.samples(name, 1, seed=5)[0]
    native, standard = (
        session(q.quantize().model, executor="function", threads=1, optimize=False).run(None, sample)[0] for q in made
    )
    assert metrics(native, standard).sqnr > 40
