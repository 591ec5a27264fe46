"""Files say who made them, how well they do, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxptq import Quantizer
from onnxptq.cli import main
from onnxptq.report.introduction import introduced
from tests.targets.test_target import quantize, samples, transformer


def test_a_file_introduces_itself() -> None:
    words = introduced(quantize("tensorrt").model)
    assert list(words) == ["version", "recipe", "bits", "format", "target", "calibration", "accuracy", "load"]
    assert (words["recipe"], words["bits"], words["target"]) == ("minmax", "w8a8", "tensorrt")
    assert words["accuracy"].startswith("SQNR ")
    assert "trtexec" in words["load"]


def test_words_of_the_original_are_kept() -> None:
    original = transformer()
    original.doc_string, original.graph.doc_string = "a small transformer", "its graph"
    original.metadata_props.add(key="author", value="somebody")
    quantizer = Quantizer(original, recipe="minmax", threads=1)
    quantizer.calibrate(samples())
    result = quantizer.quantize()
    made = result.model
    assert (made.doc_string, made.graph.doc_string) == ("a small transformer", "its graph")
    held = {entry.key: entry.value for entry in made.metadata_props}
    assert held["author"] == "somebody"
    assert "op library" in held["onnxptq.load"]
    assert (made.producer_name, made.producer_version) == ("onnxptq", held["onnxptq.version"])
    assert result.report.sizes.after == made.ByteSize()


def test_a_quantized_file_is_refused_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize("tensorrt").save(tmp_path / "m.onnx")
    assert main(["quantize", str(tmp_path / "m.onnx")]) == 2
    said = capsys.readouterr().err
    assert "written by onnxptq" in said
    assert said.count("\n") == 1


def test_files_of_others_say_nothing() -> None:
    assert introduced(onnx.ModelProto()) == {}
