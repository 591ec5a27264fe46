"""``onnxptq compare --runtime``: right here, wrong there, and why no faster."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from onnxptq.cli import main
from onnxptq.cli.compare import RUNTIMES
from onnxptq.running import runtimes
from tests.targets.test_target import quantize, transformer


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    onnx.save(transformer(), tmp_path / "m.onnx")
    quantize("onnxruntime").save(tmp_path / "q.onnx")
    return [str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx")]


def test_a_row_for_each_runtime(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *files, "--runtime", "onnxruntime", "--runs", "2", "--samples", "2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runtimes"]
    assert found["runtime"] == "onnxruntime"
    assert found["faster"] > 0
    assert found["products"]["integer"] == {"MatMulIntegerToFloat": 4}
    assert found["outputs"]["y"]["sqnr"] > 10


def test_unknown_runtimes_are_refused(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *files, "--runtime", "onnxruntime,tflite"]) == 2
    assert "unknown runtime 'tflite'" in capsys.readouterr().err


def test_the_help_lists_all() -> None:
    assert set(RUNTIMES) == set(runtimes.RUNTIMES)
