"""docs/start.md: every command, in its order, in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxptq.cli import main
from tests.cli.conftest import vision_model

TEXT = (Path(__file__).parents[1] / "docs" / "start.md").read_text()


def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(vision_model(), tmp_path / "model.onnx")
    (tmp_path / "samples").mkdir()
    for i in range(6):
        image = np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32)
        np.savez(tmp_path / "samples" / f"{i}.npz", image=image)
    commands = re.findall(r"^ +\$ onnxptq (.*)$", TEXT, re.MULTILINE)
    assert len(commands) >= 14
    for command in commands:
        code = main(shlex.split(command))
        said = capsys.readouterr()
        # doctor ends with 2 where something is missing on this machine.
        assert code == 0 or command == "doctor", (command, said.err)
    made = {path.name for path in tmp_path.glob("*.onnx")} - {"model.onnx"}
    assert made == {"small.onnx", "partly.onnx", "w4a8.onnx", "kept.onnx", "edited.onnx", "plain.onnx"}
    assert (tmp_path / "edited.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes(), "an unedited plan"


def test_words_and_links() -> None:
    folder = Path(__file__).parents[1] / "docs"
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (folder / target).exists(), target
