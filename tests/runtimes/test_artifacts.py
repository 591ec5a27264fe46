"""Quantized models give the same results in every runtime they are meant for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import inliner

from onnxptq.compare import decibels

MODELS = ("sam-encoder", "sam-decoder", "bert", "swin", "cnn")
CASES = [(name, "auto", bits) for name in MODELS for bits in ("w8a8", "w4a4")] + [
    ("sam-encoder", "omse", "w8a8"),
    ("sam-encoder", "omse", "w4a8"),
    ("sam-encoder", "auto", "w6a6"),
    ("bert", "omse", "w6a6"),
    ("bert", "minmax", "w4a4"),
    ("swin", "minmax", "w5a3"),
]
AGREE = {3: 30.0, 4: 30.0, 6: 38.0, 8: 45.0}
"""dB between two runtimes by activation bits: a float rounding may flip a code near a boundary, and a code weighs more at fewer bits."""
SAME = 0.3
"""dB by which the distance to the original may differ between runtimes."""


def difference(expected: list[Any], got: list[Any]) -> float:
    """SQNR over all outputs of all samples, each output weighed by its own energy: the worst one."""
    assert [set(one) for one in expected] == [set(one) for one in got]
    worst = math.inf
    for name in expected[0]:
        a, b = (np.concatenate([one[name].ravel().astype(np.float64) for one in side]) for side in (expected, got))
        assert np.isfinite(b).all()
        worst = min(worst, decibels(float(a @ a), float(((a - b) ** 2).sum())))
    return worst


def check(name: str, bits: str, samples: Any, original: Any, expected: Any, got: Any) -> None:
    agreement = difference(expected, got)
    assert agreement >= AGREE[int(bits[-1])], f"{name} {bits}: {agreement:.1f} dB from plain onnxruntime"
    kept, here = difference(original, expected), difference(original, got)
    assert abs(kept - here) <= SAME, f"{name} {bits}: {here:.2f} dB from the original, {kept:.2f} in plain onnxruntime"


@pytest.mark.parametrize(("name", "recipe", "bits"), CASES)
def test_onnxruntime_web_runs_native(name: str, recipe: str, bits: str, artifacts: Any, plain: Any, web: Any) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, "native")
    check(name, bits, samples, plain(artifacts.original(name), samples), plain(model, samples), web(model, samples))


@pytest.mark.parametrize("format", ["portable", "qdq"])
@pytest.mark.parametrize(("name", "recipe", "bits"), CASES)
def test_openvino_runs_portable_and_qdq(name: str, recipe: str, bits: str, format: str, artifacts: Any, plain: Any, openvino: Any) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, format)
    check(name, bits, samples, plain(artifacts.original(name), samples), plain(model, samples), openvino(model, samples))


@pytest.mark.parametrize("format", ["native", "portable", "qdq"])
@pytest.mark.parametrize(("name", "recipe", "bits"), CASES)
def test_checker_and_plain_onnxruntime(name: str, recipe: str, bits: str, format: str, artifacts: Any, plain: Any) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, format)
    onnx.checker.check_model(model, full_check=True)
    domains = {node.domain for node in model.graph.node}
    assert ("onnxptq" in domains) == (format == "native")
    assert bool(model.functions) == (format == "native")
    if format == "portable":
        native = plain(artifacts.quantized(name, recipe, bits, "native"), samples)
        check(name, bits, samples, plain(artifacts.original(name), samples), native, plain(model, samples))


@pytest.mark.parametrize(("name", "bits"), [("bert", "w8a8"), ("bert", "w4a4"), ("cnn", "w8a8")])
def test_reference_evaluator_agrees(name: str, bits: str, artifacts: Any, plain: Any) -> None:
    from onnx.reference import ReferenceEvaluator

    samples, model = artifacts.held_out(name), artifacts.quantized(name, "auto", bits, "native")
    evaluator = ReferenceEvaluator(inliner.inline_local_functions(model))
    names = [output.name for output in model.graph.output]
    got = [dict(zip(names, evaluator.run(None, sample), strict=True)) for sample in samples]
    check(name, bits, samples, plain(artifacts.original(name), samples), plain(model, samples), got)
