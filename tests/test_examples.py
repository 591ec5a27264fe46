"""The examples run unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxptq.datasets import zoo
from onnxptq.evaluate.predictors import SamPredictor

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str, *words: str | Path) -> str:
    """What a script prints; it must end well."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def notebook() -> dict[str, Any]:
    """Names after the code of the notebook's cells has run."""
    cells = json.loads((EXAMPLES / "sam.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "clear the outputs before you commit"
            exec("".join(cell["source"]), names)
    return names


def test_the_notebook() -> None:
    names = notebook()
    assert names["before"].shape == (len(names["scene"].boxes), 128, 128)
    assert names["before"].any()
    assert names["agreement"] > 0.85


def test_own_samples_and_plain_onnxruntime(tmp_path: Path) -> None:
    scenes = list(zoo.prompt_samples("val", 2))
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    encoder, decoder = zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")
    printed = example("own_samples", encoder, tmp_path, tmp_path / "encoder.onnx", "minmax")
    assert printed.endswith("on 2 pictures\n")
    box = ",".join(str(x) for x in scenes[0].boxes[0])
    code = (
        "import runpy, sys; sys.modules['onnxptq'] = None; sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [tmp_path / "encoder.onnx", decoder, tmp_path / "0.png", box, tmp_path / "mask.png"]
    subprocess.run([sys.executable, "-c", code, EXAMPLES / "plain_onnxruntime.py", *words], check=True)
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    image = scenes[0].image.transpose(1, 2, 0)
    expected = SamPredictor(encoder, decoder).masks(image, scenes[0].boxes[:1]).masks[0]
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9


@pytest.mark.slow
def test_compare_recipes() -> None:
    lines = example("compare_recipes", "w6a6", "rtn", "percentile").splitlines()[1:]
    figures = {name: (float(size), float(db)) for name, size, db in (line.split() for line in lines)}
    assert figures["percentile"][1] > figures["rtn"][1] > 10
