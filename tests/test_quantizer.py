"""The whole pipeline on small models: every structure, every format, both executors; determinism, plans, scope."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxptq import Quantizer, Result, library_path, session
from onnxptq.errors import InputError
from onnxptq.pipeline import reporting as account
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.running.compare import models
from onnxptq.running.metrics import metrics as measured
from onnxptq.structure import Role
from tests.graph.build import model, run

Minis = Callable[..., Any]
# What w8a8 must keep at least, dB. Random weights and few samples: a broken composition lands below 15.
FLOOR = {"sam-encoder": 25, "sam-decoder": 25, "bert": 25, "vit": 25, "swin": 25, "cnn": 28, "lavt": 20}


def samples(name: str, count: int = 6) -> list[dict[str, Any]]:
    from onnxptq.models import mini

    return mini.samples(name, count, batch=2 if name == "sam-decoder" else 1)


def quantized(
    minis: Minis, name: str, *, bits: str = "w8a8", recipe: str = "auto", exporter: str = "torchscript", **options: Any
) -> Result:
    q = Quantizer(minis(name, exporter).path, recipe=recipe, bits=bits, threads=1, **options)
    q.calibrate(samples(name))
    return q.quantize()


def sqnr(result: Result, output: str | None = None) -> float:
    metrics = result.report.outputs[output] if output else next(iter(result.report.outputs.values()))
    assert metrics.sqnr is not None
    return metrics.sqnr


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_every_structure_at_eight_bits(minis: Minis, name: str) -> None:
    result = quantized(minis, name)
    assert sqnr(result) > FLOOR[name]
    onnx.checker.check_model(result.model, full_check=True)
    assert {node.domain for node in result.model.graph.node} <= {"", "onnxptq"}
    assert result.report.sizes.weights_after < result.report.sizes.weights_before / 3


@pytest.mark.parametrize("name", ["sam-encoder", "bert"])
@pytest.mark.parametrize("bits", ["w8a8", "w6a6", "w4a4"])
def test_formats_agree(minis: Minis, name: str, bits: str) -> None:
    native, portable, qdq = (quantized(minis, name, bits=bits, format=f) for f in ("native", "portable", "qdq"))
    assert {node.domain for node in portable.model.graph.node} == {""}
    assert not portable.model.functions
    assert {node.domain for node in qdq.model.graph.node} == {""}
    agreement = models(native.model, portable.model, samples(name, 3), executor="function", threads=1)
    floor = {"w8a8": 45, "w6a6": 37, "w4a4": 30}[bits]
    for metrics in agreement.values():
        assert metrics.sqnr is not None
        assert metrics.sqnr >= floor
    assert abs(sqnr(native) - sqnr(portable)) < 0.3
    assert sqnr(qdq) > {"w8a8": 20, "w6a6": 8, "w4a4": 4}[bits]


@pytest.mark.native
@pytest.mark.skipif(library_path() is None, reason="no compiled op library: install with a C++ compiler")
@pytest.mark.parametrize("name", sorted(FLOOR))
def test_library_and_function_bodies_agree(minis: Minis, name: str) -> None:
    """Ops agree to the last bits, but a code that flips at a boundary flips others behind it: over a deep network the
    two executors end up about as far from each other as one step of the codes, and equally far from the original."""
    result = quantized(minis, name)
    data = samples(name, 3)
    original = minis(name).path
    by_library, by_bodies = (
        models(original, result.model, data, executor=e, threads=1) for e in ("native", "function")
    )
    apart = 0.0
    for sample in data:
        native = result.session(executor="native", threads=1).run(None, sample)
        bodies = result.session(executor="function", threads=1).run(None, sample)
        for a, b in zip(native, bodies, strict=True):
            apart = max(apart, float(np.square(a - b, dtype=np.float64).sum() / np.square(b, dtype=np.float64).sum()))
    assert apart < 1e-3
    for output, metrics in by_library.items():
        other = by_bodies[output].sqnr
        assert metrics.sqnr is not None
        assert other is not None
        assert abs(metrics.sqnr - other) < 0.5


@pytest.mark.parametrize("name", ["bert", "sam-encoder"])
def test_dynamo_exports(minis: Minis, name: str) -> None:
    result = quantized(minis, name, exporter="dynamo")
    script = quantized(minis, name)
    assert abs(sqnr(result) - sqnr(script)) < 3
    count = [sum(node.op_type == "QAttention" for node in one.model.graph.node) for one in (result, script)]
    assert count[0] == count[1] > 0


@pytest.mark.parametrize(
    ("recipe", "exporter"),
    [(recipe, "torchscript") for recipe in sorted(Recipe.names())] + [("auto", "dynamo"), ("minmax", "dynamo")],
)
def test_texts_of_any_length(minis: Minis, recipe: str, exporter: str) -> None:
    """Each sample as long as its text: attention maps and values differ in size from one to the next."""
    texts = samples("bert", 6)
    cut = [
        {name: array[:, :length] for name, array in text.items()}
        for text, length in zip(texts, (10, 7, 12, 5, 9, 12), strict=True)
    ]
    settings = {"weights.iterations": "4"} if recipe in ("adaround", "brecq", "qdrop", "ptq4sam-l") else {}
    path = minis("bert", exporter, dynamic_batch=True).path
    q = Quantizer(path, recipe=recipe, bits="w6a6", settings=settings, threads=1)
    q.calibrate(cut)
    assert sqnr(q.quantize()) > 15


@pytest.mark.parametrize("recipe", ["rtn", "percentile", "omse", "avgminmax"])
def test_recipes(minis: Minis, recipe: str) -> None:
    assert sqnr(quantized(minis, "bert", recipe=recipe)) > 18


@pytest.mark.parametrize(("bits", "floor"), [("w4a32", 12), ("w32a8", 25), ("w2a8", 20), ("w3a5", 25), ("w7a7", 20)])
def test_odd_widths(minis: Minis, bits: str, floor: float) -> None:
    result = quantized(minis, "cnn", bits=bits)
    assert sqnr(result) > floor
    qdq = quantized(minis, "cnn", bits=bits, format="qdq")
    assert sqnr(qdq) > floor


def test_weights_are_stored_at_their_width(minis: Minis) -> None:
    """Six bits take six bits: codes, scales and zero-points of all weights."""
    for bits in (4, 6, 8):
        report = quantized(minis, "bert", bits=f"w{bits}a8").report
        elements = report.sizes.weights_before // 4
        assert (
            report.sizes.weights_after * 8 / elements < bits + 2.5
        )  # tiny layers: 40 bits of scale and zero for 32 weights


def test_same_bytes_whatever_the_threads(minis: Minis) -> None:
    made = []
    for threads in (1, 2, 1):
        q = Quantizer(minis("bert").path, bits="w6a6", threads=threads)
        q.calibrate(samples("bert"))
        made.append(q.quantize().model.SerializeToString(deterministic=True))
    assert made[0] == made[1] == made[2]


def test_plan_out_and_in(minis: Minis) -> None:
    first = Quantizer(minis("bert").path, bits="w6a6", threads=1)
    first.calibrate(samples("bert"))
    original = first.quantize()
    again = Quantizer(minis("bert").path, bits="w6a6", threads=1, plan=Plan.from_json(original.plan.to_json()))
    again.calibrate(samples("bert"))
    assert again.quantize().model.SerializeToString(deterministic=True) == original.model.SerializeToString(
        deterministic=True
    )


def test_a_plan_of_another_model_keeps_its_decisions_and_finds_its_parameters_anew(minis: Minis) -> None:
    first = Quantizer(minis("bert").path, recipe="minmax", bits="w4a4", threads=1)
    plan = first.calibrate(samples("bert")).about(model="another")
    again = Quantizer(minis("bert").path, recipe="auto", bits="w8a8", threads=1, plan=plan)
    found = again.calibrate(samples("bert"))
    assert {key: choice.bits for key, choice in found.items()} == {key: choice.bits for key, choice in plan.items()}
    assert any("made for another model" in warning for warning in again.warnings)
    assert again.quantize().model.SerializeToString(deterministic=True) == first.quantize().model.SerializeToString(
        deterministic=True
    )
    strange = Plan.from_json(plan.to_json().replace('"consumer": "', '"consumer": "x'))
    with pytest.raises(InputError, match="is not in this model"):
        Quantizer(minis("bert").path, threads=1, plan=strange)


def test_an_edited_plan_is_obeyed(minis: Minis) -> None:
    first = Quantizer(minis("bert").path, recipe="minmax", bits="w8a8", threads=1)
    first.calibrate(samples("bert"))
    plan = first.plan().override(":weight$", bits=4, params=None)
    again = Quantizer(minis("bert").path, recipe="minmax", bits="w8a8", threads=1, plan=plan)
    again.calibrate(samples("bert"))
    result = again.quantize()
    assert {site.bits for site in result.report.sites if site.role is Role.WEIGHT} == {4}
    assert sqnr(result) < sqnr(first.quantize()) - 3


def test_scope(minis: Minis) -> None:
    whole = Quantizer(minis("bert").path, threads=1).plan()
    part = Quantizer(minis("bert").path, exclude=[":(query|key|value|softmax)$"], threads=1)
    assert set(whole) - set(part.plan()) == {
        key for key in whole if key.rsplit(":", 1)[1] in ("query", "key", "value", "softmax")
    }
    part.calibrate(samples("bert"))
    result = part.quantize()
    assert not any(node.op_type == "QAttention" for node in result.model.graph.node)
    odd = Quantizer(minis("bert").path, exclude=["nothing at all"], threads=1)
    odd.plan()
    assert odd.warnings == ("pattern 'nothing at all' matches no site; `onnxptq inspect` lists them",)


@pytest.mark.parametrize("recipe", ["auto", "minmax", "ptq4vit"])
def test_learned_queries_in_every_format(recipe: str) -> None:
    """One constant stands for the queries of every sample of a batch, also in the fused op."""
    text = (
        "g (float[B,9,8] x) => (float[B,3,8] y) { b = MatMul(x, wk) b4 = Reshape(b, s4) "
        "k = Transpose<perm=[0,2,3,1]>(b4) c = MatMul(x, wv) c4 = Reshape(c, s4) "
        "v = Transpose<perm=[0,2,1,3]>(c4) s = MatMul(q, k) p = Softmax(s) "
        "o = MatMul(p, v) ot = Transpose<perm=[0,2,1,3]>(o) of = Reshape(ot, s3) yy = MatMul(of, wo) y = Relu(yy) }"
    )
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(8, 8)).astype(np.float32) for n in ("wk", "wv", "wo")}
    q = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    proto = model(text, opset=21, q=q, s3=np.array([0, 0, 8]), s4=np.array([0, 0, 2, 4]), **weights)
    given = [{"x": rng.normal(size=(2, 9, 8)).astype(np.float32)} for _ in range(3)]
    found = []
    for format in ("native", "portable", "qdq"):
        one = Quantizer(proto, recipe=recipe, format=format, threads=1)
        one.calibrate(given)
        found.append(one.quantize())
    native, portable, standard = found
    assert sum(node.op_type == "QAttention" for node in native.model.graph.node) == 1
    assert min(sqnr(native), sqnr(portable)) > 25
    assert measured(run(proto, given[0])[0], run(standard.model, given[0])[0]).sqnr > 25  # type: ignore[operator]
    (product,) = [n for n in standard.model.graph.node if n.op_type == "MatMul" and n.output[0] == "s"]
    makers = {o: n for n in standard.model.graph.node for o in n.output}
    assert makers[product.input[0]].op_type == "DequantizeLinear"
    assert makers[makers[product.input[1]].input[0]].op_type == "DequantizeLinear"
    for executor in ("function", "native") if library_path() else ("function",):
        agreement = models(native.model, portable.model, given, executor=executor, threads=1)
        assert agreement["y"].sqnr is not None
        assert agreement["y"].sqnr > 60


QKV = (
    "g (float[1,16,8] x, float[1,6,8] u) => (float[N,M,8] y) { a = MatMul(x, wq) b = MatMul(u, wk) v = MatMul(u, wv) "
    "kt = Transpose<perm=[0,2,1]>(b) "
)
END = "o = MatMul(p, v) yy = MatMul(o, wo) y = Relu(yy) }"
TURN = (
    "{0}1, {0}2 = Split<axis=-1, num_outputs=2>({0}) {0}n = Neg({0}2) {0}r = Concat<axis=-1>({0}n, {0}1) "
    "{0}c = Mul({0}, cos{1}) {0}s = Mul({0}r, sin{1}) {0}t = Add({0}c, {0}s) "
)
ANGLES = np.arange(16)[:, None] * np.tile(1.0 / 10 ** np.arange(4), 2)
TODAY: dict[str, tuple[str, dict[str, Any], int]] = {
    "two softmaxes over one score matrix": (
        QKV + "w = MatMul(x, wv) s = MatMul(a, kt) m = ReduceMax(s, last) d = Sub(s, m) p = Softmax(d) "
        "st = Transpose<perm=[0,2,1]>(s) mt = ReduceMax(st, last) dt = Sub(st, mt) pt = Softmax(dt) "
        "ot = MatMul(pt, w) o = MatMul(p, v) oo = Concat<axis=1>(o, ot) yy = MatMul(oo, wo) y = Relu(yy) }",
        {"last": np.array([-1])},
        0,
    ),
    "rows masked by what was predicted": (
        QKV + "s = MatMul(a, kt) h = MatMul(x, wo) n = Slice(h, zero, six, last) out = Less(n, nought) "
        "c = Cast<to=1>(out) low = ReduceMin(c, last) all = Equal(low, whole) some = Not(all) hid = And(out, some) "
        "bias = Where(hid, minus, nought) z = Add(s, bias) p = Softmax(z) " + END,
        {
            "last": np.array([-1]),
            "zero": np.array([0]),
            "six": np.array([6]),
            "nought": np.float32(0),
            "whole": np.float32(1),
            "minus": np.float32(-np.inf),
        },
        1,
    ),
    "rotated queries and keys": (
        QKV.replace("kt = Transpose<perm=[0,2,1]>(b) ", "")
        + TURN.format("a", "q")
        + TURN.format("b", "k")
        + "kt = Transpose<perm=[0,2,1]>(bt) s = MatMul(at, kt) p = Softmax(s) "
        + END,
        {
            "cosq": np.cos(ANGLES).astype(np.float32),
            "sinq": np.sin(ANGLES).astype(np.float32),
            "cosk": np.cos(ANGLES[:6]).astype(np.float32),
            "sink": np.sin(ANGLES[:6]).astype(np.float32),
        },
        1,
    ),
    "pooled queries": (
        QKV
        + "at = Transpose<perm=[0,2,1]>(a) a4 = Reshape(at, grid) q4 = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a4) "
        "q3 = Reshape(q4, line) q = Transpose<perm=[0,2,1]>(q3) s = MatMul(q, kt) p = Softmax(s) " + END,
        {"grid": np.array([1, 8, 4, 4]), "line": np.array([1, 8, 4])},
        1,
    ),
    "attention over channels, gated MLP, layer scale": (
        QKV + "ct = Transpose<perm=[0,2,1]>(u) s = MatMul(ct, b) p = Softmax(s) vt = Transpose<perm=[0,2,1]>(v) "
        "o = MatMul(p, vt) ot = Transpose<perm=[0,2,1]>(o) f = MatMul(ot, wo) g = Sigmoid(f) i = Mul(f, g) "
        "j = Mul(i, ot) l = Mul(j, scale) r = Add(l, u) yy = MatMul(r, wq) y = Relu(yy) }",
        {"scale": np.full(8, 0.5, np.float32)},
        1,
    ),
}


@pytest.mark.parametrize("name", TODAY)
def test_structures_of_today_at_eight_bits(name: str) -> None:
    """Folds that a structure does not allow are left out, products that are no attention stay in float."""
    text, constants, fused = TODAY[name]
    rng = np.random.default_rng(0)
    weights = {n: (0.5 * rng.normal(size=(8, 8))).astype(np.float32) for n in ("wq", "wk", "wv", "wo")}
    proto = model(text, opset=21, **{n: w for n, w in (weights | constants).items() if f" {n}" in text})
    one = Quantizer(proto, threads=1)
    one.calibrate(
        [{"x": rng.normal(size=(1, 16, 8)).astype(np.float32), "u": rng.normal(size=(1, 6, 8)).astype(np.float32)}] * 4
    )
    result = one.quantize()
    assert sum(node.op_type == "QAttention" for node in result.model.graph.node) == fused
    assert sqnr(result) > 25
    assert not any("left out" in warning for warning in result.report.warnings)


def test_one_attention_operand_in_float(minis: Minis) -> None:
    """What cannot be fused is coded on its edges."""
    q = Quantizer(minis("bert").path, exclude=[":softmax$"], threads=1)
    q.calibrate(samples("bert"))
    result = q.quantize()
    ops = {node.op_type for node in result.model.graph.node if node.domain}
    assert "QAttention" not in ops
    assert {"UniformQuantizeLinear", "UniformDequantizeLinear"} <= ops
    assert sqnr(result) > 20


def test_save_and_session(minis: Minis, tmp_path: Path) -> None:
    result = quantized(minis, "cnn")
    path = result.save(tmp_path / "small.onnx")
    sample = samples("cnn", 1)[0]
    np.testing.assert_array_equal(
        session(path, threads=1).run(None, sample)[0], result.session(threads=1).run(None, sample)[0]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_constants(minis: Minis) -> None:
    half, full = (quantized(minis, "vit", constants=kind) for kind in ("fp16", "fp32"))
    assert len(half.model.SerializeToString()) < len(full.model.SerializeToString())
    assert abs(sqnr(half) - sqnr(full)) < 1


def test_no_site() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(InputError, match="no site to quantize"):
        Quantizer(model).plan()


def test_strict_qdq(minis: Minis) -> None:
    """A recipe whose codes the format cannot express is refused before weights are solved for."""
    dynamic = {"linear_input.scheme": "token", "linear_input.calibrator": "token", "linear_input.granularity": "row"}
    q = Quantizer(minis("bert").path, format="qdq", strict=True, settings=dynamic, threads=1)
    with pytest.raises(InputError, match=r"format qdq: .* scheme that standard ops cannot express"):
        q.calibrate(samples("bert"))


def test_nothing_is_calibrated_behind_the_users_back(minis: Minis) -> None:
    with pytest.raises(InputError, match=r"call calibrate\(samples\) first"):
        Quantizer(minis("bert").path, threads=1).quantize()


def test_stand_ins_of_qdq(minis: Minis) -> None:
    """``auto`` has codes for the format; what another recipe cannot express in it is replaced, and the plan, the report
    and a note tell."""
    dynamic = {"linear_input.scheme": "token", "linear_input.calibrator": "token", "linear_input.granularity": "row"}
    suited = quantized(minis, "bert", bits="w4a4", format="qdq")
    replaced = quantized(minis, "bert", bits="w4a4", format="qdq", settings=dynamic)
    for result, noted in ((suited, False), (replaced, True)):
        assert {choice.scheme for choice in result.plan.values()} == {"uniform"}
        assert {site.scheme for site in result.report.sites} == {"uniform"}
        assert any("static uniform codes stand in" in warning for warning in result.report.warnings) == noted
    assert any(c.options.get("norm") for key, c in suited.plan.items() if key.endswith(":softmax"))
    native = quantized(minis, "bert", bits="w4a4")
    assert {choice.scheme for choice in native.plan.values()} - {"uniform"}


@pytest.mark.parametrize("name", ["sam-encoder", "bert"])
def test_layers_by_some_rows(minis: Minis, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large outputs are judged by some of their rows, padded ones whole: much the same figures for the same layers."""
    q = Quantizer(minis(name).path, recipe="minmax", threads=1)
    q.calibrate(samples(name))
    whole = {layer.name: layer.metrics.sqnr for layer in q.quantize().report.layers}
    monkeypatch.setattr(account, "LARGE", 0)
    monkeypatch.setattr(account, "ROWS", 24)
    some = {layer.name: layer.metrics.sqnr for layer in q.quantize().report.layers}
    assert list(some) == list(whole)
    assert all(abs(some[layer] - sqnr) < 3 for layer, sqnr in whole.items())
    assert (some != whole) == (name == "sam-encoder")
