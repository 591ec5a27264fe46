"""The last lines of ``onnxptq quantize``: the speed here, and a better target."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxptq import library_path
from onnxptq.cli import main
from tests.targets.test_target import transformer

OPTIONS = ("--recipe", "minmax", "--threads", "1", "--samples", "2")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("ONNXPTQ_SPEED")
    onnx.save(transformer(), tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


@pytest.mark.parametrize("target", [None, "onnxruntime"])
def test_speed_is_said(source: str, target: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", source, *OPTIONS, *(["--target", target] if target else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "size", "accuracy", "speed", "next"]
    native = target is None and library_path() is not None
    assert ("without the op library" in lines[3]) == native
    assert ("in plain onnxruntime" in lines[3]) == (not native)


def test_unknown_targets_are_named_first(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", source, "--target", "../tensorrt"]) == 2
    assert "unknown target '../tensorrt'" in capsys.readouterr().err


def test_the_speed_of_other_runtimes_is_not_measured(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", source, *OPTIONS, "--target", "tensorrt"]) == 0
    assert capsys.readouterr().out.count("not measured here") == 1


def test_speed_can_be_switched_off(
    source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["quantize", source, *OPTIONS, "--no-speed"]) == 0
    monkeypatch.setenv("ONNXPTQ_SPEED", "off")
    assert main(["quantize", source, *OPTIONS]) == 0
    assert capsys.readouterr().out.count("not measured here") == 2
