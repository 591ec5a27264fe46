"""Every op that is not a scheme's pair: NumPy, function body and native kernel agree, inlined or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import inliner
from onnx.reference import ReferenceEvaluator

from onnxptq.ops import schemes, specs
from tests.ops.cases import CASES, MAKERS, Case
from tests.ops.conftest import model_of, static_model_of

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
    assert (error <= 1e-5 * largest).mean() >= 0.999
    assert (error**2).sum() <= 1e-6 * (wanted.astype(np.float64) ** 2).sum(), "less than 60 dB"


def test_every_op_has_cases() -> None:
    assert set(specs()) == PAIRS | set(MAKERS), "an op without cases: add them to tests/ops/cases.py"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faces_agree(case: Case, run: Any) -> None:
    for first in (case.inputs[0], *case.more):
        inputs = (first, *case.inputs[1:])
        got = run(case.op, *inputs, constants=case.constants, **case.attributes)
        for have, want in zip(got if isinstance(got, tuple) else (got,), expected(case, *inputs), strict=True):
            check(have, want, loose=case.loose)


@pytest.mark.parametrize("case", CASES[::6], ids=str)
def test_model_passes_the_checker_and_inlines(case: Case) -> None:
    """With static shapes, strict shape inference included; the inlined model gives the same in onnx's own evaluator."""
    for opset in (21, 23):
        model = static_model_of(
            case.op, case.inputs, expected(case, *case.inputs), constants=case.constants, opset=opset, **case.attributes
        )
        onnx.checker.check_model(model, full_check=True)
    inlined = inliner.inline_local_functions(model_of(case.op, case.inputs, constants=case.constants, **case.attributes))
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    feeds = {f"i{i}": v for i, v in enumerate(case.inputs) if v is not None and i not in case.constants}
    for have, want in zip(ReferenceEvaluator(inlined).run(None, feeds), expected(case, *case.inputs), strict=True):
        check(np.asarray(have), want, loose=case.loose)


def test_inlined_models_run_in_openvino() -> None:
    """A runtime that knows no functions of other domains; it need not be exact, but it must load them and be close."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for case in CASES[::11]:
        wanted = expected(case, *case.inputs)
        model = inliner.inline_local_functions(static_model_of(case.op, case.inputs, wanted, constants=case.constants, **case.attributes))
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", config)
        results = compiled([np.array(case.inputs[int(i.get_any_name()[1:])]) for i in compiled.inputs])
        for i, want in enumerate(wanted):
            assert (np.abs(results[i] - want) <= 1e-5 * np.abs(want).max()).mean() >= 0.99, case
