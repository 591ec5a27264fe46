"""``onnxptq check``: our files keep the rules of their targets, files of others break them, and the reason is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxptq.cli import main
from onnxptq.targets.rules import RULES, check
from onnxptq.targets.target import Target
from tests.targets.test_target import NAMES, quantize, samples, transformer


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter(samples())

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def others(folder: Path, **options: Any) -> Path:
    """A file of onnxruntime's static quantization."""
    onnx.save(transformer(), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "others.onnx", Reader(), quant_format=QuantFormat.QDQ, **options)
    return folder / "others.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_our_files_keep_the_rules(name: str) -> None:
    target = Target.load(name)
    assert set(target.rules) <= set(RULES)
    assert check(quantize(name).model, target.rules) == []


def test_every_rule_names_its_document_and_is_of_a_target() -> None:
    assert all(rule.source and rule.text and "://" not in rule.source for rule in RULES.values())
    assert {rule for name in NAMES for rule in Target.load(name).rules} == set(RULES)


def test_tensorrt_refuses_the_default_of_static_quantization(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = others(tmp_path)
    assert main(["check", str(path), "--target", "tensorrt"]) == 2
    said = capsys.readouterr()
    assert "target tensorrt refuses it" in said.err
    assert "every zero-point is 0" in said.err
    assert "INT32 codes" in said.out, "biases are coded too"


def test_tensorrt_takes_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize("tensorrt").save(tmp_path / "ours.onnx")
    assert main(["check", str(tmp_path / "ours.onnx"), "--target", "tensorrt"]) == 0
    assert "keeps every rule of target tensorrt; a static check, not a run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "target", "rules"),
    [
        ("onnxptq", "tensorrt", {"standard-ops"}),
        ("onnxptq", "openvino", {"standard-ops-openvino"}),
        ("onnxruntime", "tensorrt", {"zero-points", "int8"}),
        ("onnxruntime", "qnn", {"symmetric-weights"}),
        ("tensorrt", "qnn", {"unsigned-activations"}),
    ],
)
def test_files_for_other_runtimes_are_refused(made: str, target: str, rules: set[str]) -> None:
    assert {one.rule.name for one in check(quantize(made).model, Target.load(target).rules)} == rules


def test_scales_and_shapes() -> None:
    made = quantize("tensorrt").model
    scales = {node.input[1] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    held = next(one for one in made.graph.initializer if one.name in scales)
    held.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(held), held.name))
    assert [one.rule.name for one in check(made, ("scales",))] == ["scales"]
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert check(made, ("fixed-shapes",))[0].places == ("input x",)


def test_a_signed_symmetric_file_of_others_breaks_only_what_it_must(tmp_path: Path) -> None:
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    path = others(tmp_path, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, extra_options=symmetric)
    assert check(onnx.load(path), Target.load("tensorrt").rules) == []
