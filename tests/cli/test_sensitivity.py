"""The command: layers in order, exclusions that the other commands understand, a page with one bar a layer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.pipeline.sensitivity import Layer
from onnxptq.report.sensitivity import bars
from tests.cli.conftest import Run
from tests.pipeline.test_asymmetric import MODEL, SAMPLES


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, folder = tmp_path / "m.onnx", tmp_path / "samples"
    model.write_bytes(MODEL)
    folder.mkdir()
    for number, sample in enumerate(SAMPLES[:4]):
        np.savez(folder / f"{number}.npz", **sample)
    return model, folder


def test_layers_exclusions_and_page(files: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    model, folder = files
    page = tmp_path / "page.html"
    options = ["--bits", "w3a3", "--include", ".*", "--set", "activations.calibrator=minmax", "--threads", "1"]
    done = run("sensitivity", model, "--calib", folder, *options, "--page", page, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    shares = [layer["share"] for layer in found["layers"]]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 1) < 1e-6
    assert set(found["sites"][0]["errors"]) == {str(width) for width in range(2, 9)}
    plan = Quantizer(model, bits="w3a3", include=[".*"], settings={"passes": "off"}).plan()
    worst = found["layers"][0]["layer"]
    assert [key for key in plan if re.search(found["exclude"][0], key)] == [
        k for k in plan if k.startswith(worst + ":")
    ]
    assert f"--exclude '{found['exclude'][0]}'" in done.err
    assert page.read_text().count("<g>") == len(shares)


def test_widths_of_an_average_have_no_error(files: tuple[Path, Path], run: Run) -> None:
    done = run("sensitivity", files[0], "--calib", files[1], "--bits", "auto:4")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "for example w4a4" in done.err


def test_bars_have_the_length_of_their_share() -> None:
    drawn = bars([Layer("a<b", 0.5, 0.25), Layer("c", 0.0, 0.25)])
    assert "a&lt;b" in drawn
    assert re.findall(r'<rect[^>]* width="([\d.]+)"', drawn) == ["320.0", "160.0", "0.0", "160.0"]
