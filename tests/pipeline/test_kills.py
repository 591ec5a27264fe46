"""A run killed at any point goes on to the same file, in one process and with workers."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.test_asymmetric import MODEL, SAMPLES

ROOT = Path(__file__).parents[2]
SAVING = "import sys; from onnxptq.calibration.checkpoint import Checkpoint; Checkpoint.due = lambda self: True; "
CODE = SAVING + "from onnxptq.cli import main; sys.exit(main(sys.argv[1:]))"
POINTS = 50


def command(folder: Path, name: str, *more: str) -> list[str]:
    held = ["quantize", str(folder / "m.onnx"), "-o", str(folder / name), "--calib", str(folder / "data")]
    how = ["--samples", "8", "--bits", "w4a4", "--include", ".*", "--threads", "1", "--no-speed"]
    return [sys.executable, "-c", CODE, *held, *how, *more]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["one process", "workers"])
@pytest.mark.parametrize("recipe", ["auto", "omse", "ptq4sam-s"])
def test_the_same_file_after_kills(tmp_path: Path, recipe: str, more: tuple[str, ...]) -> None:
    (tmp_path / "m.onnx").write_bytes(MODEL)
    (tmp_path / "data").mkdir()
    for index, sample in enumerate(SAMPLES[:20]):
        np.savez(tmp_path / "data" / f"{index:02d}.npz", **sample)
    begun = time.monotonic()
    subprocess.run(command(tmp_path, "whole.onnx", "--recipe", recipe), check=True, capture_output=True, cwd=ROOT)
    whole, wanted = time.monotonic() - begun, (tmp_path / "whole.onnx").read_bytes()
    draw = random.Random(recipe)
    points = -(-POINTS // 6)
    for _ in range(points):
        words = command(tmp_path, "killed.onnx", "--recipe", recipe, *more)
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        try:
            child.wait(whole * draw.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        subprocess.run([*words, "--resume"], check=True, capture_output=True, cwd=ROOT)
        assert (tmp_path / "killed.onnx").read_bytes() == wanted
        (tmp_path / "killed.onnx").unlink()
