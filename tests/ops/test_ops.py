"""Every op that is not a scheme's pair: NumPy, function body and native kernel agree, inlined or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import inliner

from onnxptq.ops import schemes, specs
from onnxptq.ops.pack import store_weight
from onnxptq.ops.uniform import affine
from onnxptq.running.sessions import session
from tests.ops.cases import CASES, MAKERS, Case
from tests.ops.conftest import evaluate, model_of, static_model_of

PAIRS = {f"{s.ops}{op}Linear" for s in schemes().values() if s.ops is not None for op in ("Quantize", "Dequantize")}


def expected(case: Case, *inputs: Any) -> tuple[Any, ...]:
    arrays = [onnx.numpy_helper.to_array(i) if isinstance(i, onnx.TensorProto) else i for i in inputs]
    result = specs()[case.op].reference(*arrays, **case.attributes)
    return result if isinstance(result, tuple) else (result,)


def check(got: Any, wanted: Any, *, loose: bool) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    if not wanted.size:
        return
    if not loose:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))
        return
    error, largest = np.abs(got.astype(np.float64) - wanted), float(np.abs(wanted).max())
    assert np.isfinite(error).all()
    wrong = (error > 1e-5 * largest).any(-1)
    assert wrong.sum() <= max(1, 1e-3 * wrong.size), "one code in a million may flip, and changes one row"


def test_every_op_has_cases() -> None:
    assert set(specs()) == PAIRS | set(MAKERS), "an op without cases: add them to tests/ops/cases.py"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faces_agree(case: Case, run: Any) -> None:
    for first in (case.inputs[0], *case.more):
        inputs = (first, *case.inputs[1:])
        got = run(case.op, *inputs, constants=case.constants, **case.attributes)
        for have, want in zip(got if isinstance(got, tuple) else (got,), expected(case, *inputs), strict=True):
            check(have, want, loose=case.loose)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_differentiable_bodies_mean_the_same(case: Case) -> None:
    """Those that gradients are taken through: floats alone."""
    model = model_of(case.op, case.inputs, constants=case.constants, differentiable=True, **case.attributes)
    (function,) = model.functions
    assert not {"MatMulInteger", "ConvInteger", "QuantizeLinear"} & {node.op_type for node in function.node}
    feeds = {f"i{i}": v for i, v in enumerate(case.inputs) if v is not None and i not in case.constants}
    got = session(model, executor="function", threads=1).run(None, feeds)
    for have, want in zip(got, expected(case, *case.inputs), strict=True):
        check(have, want, loose=case.loose)


@pytest.mark.parametrize(
    ("scheme", "bits"), [("uniform", 8), ("row", 6), ("dual_region", 6), ("log_base", 4), ("table", 4)]
)
@pytest.mark.parametrize("norm", [0, 1])
def test_attention_of_a_real_size(scheme: str, bits: int, norm: int, run: Any) -> None:
    rng = np.random.default_rng(bits)
    q, k, v = (rng.normal(size=(8, 196, 32)).astype(np.float32) for _ in range(3))
    p = list(schemes()[scheme].grid(0.0, 1.0, bits))[-1]
    static = affine(np.full((4, 32), -3.0), np.full((4, 32), 3.0), bits)
    inputs = (q, k, v, *[None] * 8, static.scale, static.zero, *p.inputs().values())
    attributes = {
        "q_bits": bits,
        "k_bits": bits,
        "v_bits": bits,
        "p_bits": bits,
        "qk_scheme": "token",
        "softmax_scheme": scheme,
    }
    attributes |= {"softmax_norm": norm, "scale": 32**-0.5, "heads": 4}
    got, wanted = run("QAttention", *inputs, **attributes), specs()["QAttention"].reference(*inputs, **attributes)
    error = np.abs(got.astype(np.float64) - wanted)
    # A flipped code changes a whole row: 0 to 5 of 1568 rows over three seeds, all of them at 8 bits or relative to the
    # row's maximum.
    assert (error <= 1e-5 * np.abs(wanted).max()).mean() >= 0.99
    assert 10 * np.log10(np.square(wanted.astype(np.float64)).sum() / max(np.square(error).sum(), 1e-30)) >= 60


@pytest.mark.parametrize("scheme", [name for name in schemes() if name != "row"])
def test_what_is_no_number_has_code_zero_in_fused_ops(scheme: str, run: Any) -> None:
    p = list(schemes()[scheme].grid(-1.0, 1.0, 4))[-1]
    x = np.array([[np.nan, 0.5, -0.25], [1.0, np.nan, np.nan]], np.float32)
    stored, ones, zeros = store_weight(np.full((3, 2), 9, np.uint8), 4), np.ones(2, np.float32), np.zeros(2, np.int8)
    options = {f"x_{name}": value for name, value in p.attributes().items()}
    y = run(
        "QLinear",
        x,
        stored,
        ones,
        zeros,
        None,
        *p.inputs().values(),
        constants=(1,),
        x_bits=4,
        w_bits=4,
        x_scheme=scheme,
        K=3,
        N=2,
        **options,
    )
    np.testing.assert_allclose(
        y, schemes()[scheme].fake(x, p).sum(-1, keepdims=True).repeat(2, 1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("case", CASES[::6], ids=str)
def test_model_passes_the_checker_and_inlines(case: Case) -> None:
    """With static shapes, strict shape inference included; the inlined model gives the same in onnx's own evaluator."""
    for opset in (21, 23):
        model = static_model_of(
            case.op, case.inputs, expected(case, *case.inputs), constants=case.constants, opset=opset, **case.attributes
        )
        onnx.checker.check_model(model, full_check=True)
    inlined = inliner.inline_local_functions(
        model_of(case.op, case.inputs, constants=case.constants, **case.attributes)
    )
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    feeds = {f"i{i}": v for i, v in enumerate(case.inputs) if v is not None and i not in case.constants}
    for have, want in zip(evaluate(inlined, feeds), expected(case, *case.inputs), strict=True):
        check(np.asarray(have), want, loose=case.loose)


def test_inlined_models_run_in_openvino() -> None:
    """A runtime that knows no functions of other domains; it need not be exact, but it must load them and be close."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for case in CASES[::11]:
        wanted = expected(case, *case.inputs)
        model = inliner.inline_local_functions(
            static_model_of(case.op, case.inputs, wanted, constants=case.constants, **case.attributes)
        )
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", config)
        results = compiled([np.array(case.inputs[int(i.get_any_name()[1:])]) for i in compiled.inputs])
        for i, want in enumerate(wanted):
            assert (np.abs(results[i] - want) <= 1e-5 * np.abs(want).max()).mean() >= 0.99, case
