"""Which products a runtime multiplies in integers, and why others stay in floats."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from onnxptq.cli import main
from onnxptq.targets.executed import ONE, OUTPUT, PLAIN, executed
from onnxptq.targets.target import Target
from tests.targets.test_target import quantize, transformer


def test_onnxruntime_is_asked_itself() -> None:
    found = executed(quantize("onnxruntime").model, Target.load("onnxruntime"))
    assert found.by == "onnxruntime's optimised graph"
    assert found.integer == {"MatMulIntegerToFloat": 4}
    # the first convolution, two products of the attention, the output layer; a convolution whose output is not coded
    assert found.reasons == {PLAIN: 4, OUTPUT: 1}
    assert sum(found.floats.values()) == 5


def test_function_bodies_multiply_in_integers_without_the_library() -> None:
    found = executed(quantize("onnxptq").model, Target.load("onnxruntime"))
    assert found.integer["MatMulInteger"] >= 4
    assert found.integer["ConvInteger"] >= 1


def test_documented_rules_where_the_runtime_is_not_here() -> None:
    model = quantize("tensorrt").model
    found = executed(model, Target.load("tensorrt"))
    assert found.by == "the documented rule of tensorrt; not run"
    assert found.integer == {"MatMul": 4, "Conv": 1}
    assert executed(model, Target.load("qnn")).reasons[OUTPUT] > 0


def test_weights_alone_are_no_integer_products() -> None:
    found = executed(quantize("tensorrt", bits="w8a32").model, Target.load("tensorrt"))
    assert found.integer == {}
    assert found.reasons[ONE] == 5


def test_inspect_reads_what_a_file_says_about_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize("onnxruntime").save(tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["introduction"]["target"] == data["target"] == "onnxruntime"
    assert data["products"]["integer"] == {"MatMulIntegerToFloat": 4}
    assert "in floats: no operand is coded" in said.err


def test_inspect_shows_the_plan_for_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(transformer(), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--target", "openvino", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert {site["bits"] for site in sites if site["role"] in ("query", "key", "value", "softmax")} == {"32"}
