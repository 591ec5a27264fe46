"""README's commands and Python, run unchanged on a small model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(minis: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sam_encoder.onnx and samples/, as the README supposes."""
    from onnxptq.models import mini

    (tmp_path / "sam_encoder.onnx").write_bytes(minis("sam-encoder").path.read_bytes())
    (tmp_path / "samples").mkdir()
    for i, sample in enumerate(mini.samples("sam-encoder", 5)):
        np.savez(tmp_path / "samples" / f"{i}.npz", **sample)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, *shown = re.search(r"    \$ (onnxptq quantize .*?)\n\n`-v`", README, re.DOTALL)[1].splitlines()  # type: ignore[index]
    (folder / "onnxptq").symlink_to(ROOT / "onnxptq")
    assert main([*shlex.split(command)[1:], "--samples", "4", "--set", "selection=off"]) == 0
    printed = capsys.readouterr().out
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "sam.w4a4.onnx").exists()
    assert {line.split()[0] for line in shown if line.strip()} <= set(printed.split())


def test_the_python(folder: Path) -> None:
    from onnxptq.models import mini

    code = re.search(r"```python\n(from onnxptq.*?)```", README, re.DOTALL)[1]  # type: ignore[index]
    data = mini.samples("sam-encoder", 2)
    names: dict[str, Any] = {"samples": data, "image": data[0]["image"]}
    exec(code, names)
    assert np.isfinite(names["embeddings"][0]).all()


def test_every_command_named_exists() -> None:
    for name in re.findall(r"`onnxptq (\w+)", README):
        assert name in COMMANDS


def test_links_lead_somewhere() -> None:
    root = ROOT
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
