"""Quantized models keep their accuracy in every runtime that they target.

Two runtimes round floats differently. Where that flips one code, the change moves other numbers across their own
boundaries in every later layer, so two outputs may differ by much of the quantization error itself although both are
right. Required here: the same distance to the original, and a difference well below that distance. test_bodies.py
checks that bodies agree on equal inputs to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import inliner

from onnxptq.running.metrics import decibels
from tests.ops.conftest import evaluate

CASES = [
    ("sam-encoder", "auto", "w8a8"),
    ("sam-encoder", "auto", "w6a6"),
    ("sam-encoder", "omse", "w4a8"),
    ("sam-decoder", "auto", "w8a8"),
    ("bert", "auto", "w4a4"),
    ("bert", "omse", "w6a6"),
    ("swin", "auto", "w8a8"),
    ("swin", "minmax", "w5a3"),
    ("cnn", "auto", "w8a8"),
    ("cnn", "omse", "w4a4"),
]
SAME = 0.3
"""dB by which the distance to the original may differ."""
BELOW = 4.0
"""dB by which the difference between two runtimes lies below the distance to the original."""
INTEGERS = {"same": 1.0, "below": 0.0}
"""Both for Q/DQ files in OpenVINO, which rounds between its 8-bit kernels in its own way on CPUs with VNNI."""

STATIC = 15.0
"""dB that static ranges keep at least where ranges at run time keep more: four samples do not hold the extrema of
others."""

every_case = pytest.mark.parametrize(("name", "recipe", "bits"), CASES)


def difference(expected: list[Any], got: list[Any]) -> float:
    """SQNR over all samples of the output that differs most, dB."""
    assert [set(one) for one in expected] == [set(one) for one in got]
    worst = math.inf
    for name in expected[0]:
        a, b = (np.concatenate([one[name].ravel().astype(np.float64) for one in side]) for side in (expected, got))
        assert np.isfinite(b).all()
        worst = min(worst, decibels(float(a @ a), float(((a - b) ** 2).sum())))
    return worst


def check(original: Any, expected: Any, got: Any, *, same: float = SAME, below: float = BELOW) -> None:
    """``expected`` is what plain onnxruntime makes of the quantized model."""
    kept, here, apart = difference(original, expected), difference(original, got), difference(expected, got)
    assert kept > 3, "an output of zeros has 0 dB"
    assert abs(kept - here) <= same, f"{here:.2f} dB from the original, {kept:.2f} in plain onnxruntime"
    assert apart >= kept + below, f"{apart:.1f} dB from plain onnxruntime, which is {kept:.1f} dB from the original"


@every_case
def test_onnxruntime_web_runs_native(name: str, recipe: str, bits: str, artifacts: Any, plain: Any, web: Any) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, "native")
    check(artifacts.outputs(name, plain), plain(model, samples), web(model, samples))


@pytest.mark.parametrize("format", ["portable", "qdq"])
@every_case
def test_openvino_runs_portable_and_qdq(
    name: str, recipe: str, bits: str, format: str, artifacts: Any, literal: Any, openvino: Any
) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, format)
    if format == "portable":
        model = fixed(model, samples[0])
    limits = INTEGERS if format == "qdq" else {}
    check(artifacts.outputs(name, literal), literal(model, samples), openvino(model, samples), **limits)


def fixed(model: onnx.ModelProto, sample: dict[str, Any]) -> onnx.ModelProto:
    """The model for one shape of inputs: OpenVINO rounds run-time rows only if it knows how many there are."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for given in made.graph.input:
        for dim, size in zip(given.type.tensor_type.shape.dim, sample[given.name].shape, strict=True):
            dim.dim_value = size
    return made


@every_case
def test_plain_onnxruntime_runs_every_format(name: str, recipe: str, bits: str, artifacts: Any, plain: Any) -> None:
    samples, found = artifacts.held_out(name), {}
    for format in ("native", "portable", "qdq"):
        model = artifacts.quantized(name, recipe, bits, format)
        onnx.checker.check_model(model, full_check=True)
        assert ("onnxptq" in {node.domain for node in model.graph.node}) == (format == "native")
        assert bool(model.functions) == (format == "native")
        found[format] = plain(model, samples)
    original = artifacts.outputs(name, plain)
    check(original, found["native"], found["portable"])
    kept = difference(original, found["native"])
    assert difference(original, found["qdq"]) > min(kept - 4, STATIC), "qdq has static uniform codes only"


@pytest.mark.parametrize(("name", "recipe", "bits"), [("bert", "auto", "w4a4"), ("cnn", "auto", "w8a8")])
def test_reference_evaluator_agrees(name: str, recipe: str, bits: str, artifacts: Any, plain: Any) -> None:
    samples, model = artifacts.held_out(name), artifacts.quantized(name, recipe, bits, "native")
    inlined = inliner.inline_local_functions(model)
    names = [output.name for output in model.graph.output]
    got = [dict(zip(names, evaluate(inlined, sample), strict=True)) for sample in samples]
    check(artifacts.outputs(name, plain), plain(model, samples), got)
