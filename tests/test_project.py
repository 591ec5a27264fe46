"""A project file makes all files, once; what changes is made again; mistakes are told before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Run, folder, listing, refuses, run, vision_model

__all__ = ["folder", "refuses", "run"]

PROJECT = """
[[models]]
path = "vision.onnx"
samples = "calib"
limit = 4
targets = ["onnxptq", "onnxruntime"]
recipe = "minmax"
"""
FILES = {"vision.w8a8.onnxptq.onnx", "vision.w8a8.onnxruntime.onnx"}


@pytest.fixture
def project(folder: Path) -> Path:
    (folder / "calib").mkdir()
    for i in range(6):
        image = np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32)
        np.savez(folder / "calib" / f"{i}.npz", image=image)
    (folder / "onnxptq.toml").write_text(PROJECT)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "quantized" / name).read_bytes() for name in FILES}


def test_all_files_and_one_page(project: Path, run: Run) -> None:
    done = run("run", "--threads", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["files"].keys() == FILES
    page = (project / "quantized" / "index.html").read_text()
    first = contents(project)
    for name in FILES:
        assert f'href="{name}"' in page
        assert (project / "quantized" / name).with_suffix(".html").is_file()
    (project / "quantized" / "onnxptq-run.json").unlink()
    for name in FILES:
        (project / "quantized" / name).unlink()
    assert run("run", "--threads", "1").code == 0
    assert contents(project) == first, "the same project gives the same bytes"


def test_only_what_changed_is_made_again(project: Path, run: Run) -> None:
    assert run("run", "--threads", "1").code == 0
    assert run("run", "--threads", "1").out.count("unchanged") == 2
    (project / "quantized" / "vision.w8a8.onnxptq.onnx").write_bytes(b"x")
    assert run("run", "--threads", "1").out.count("unchanged") == 1
    (project / "onnxptq.toml").write_text(PROJECT.replace("limit = 4", "limit = 3"))
    assert "unchanged" not in run("run", "--threads", "1").out
    (project / "calib" / "0.npz").write_bytes((project / "calib" / "1.npz").read_bytes())
    assert "unchanged" not in run("run", "--threads", "1").out
    onnx.save(vision_model(inner=48), project / "vision.onnx")
    assert "unchanged" not in run("run", "--threads", "1").out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("recipe =", "recipes ="), "a model has no field 'recipes'; did you mean 'recipe'"),
        (('"vision.onnx"', '"other.onnx"'), "other.onnx: no such file"),
        (('"calib"', '"calibs"'), "calibs: no such file or folder"),
        (('"onnxruntime"', '"onnxruntim"'), "unknown target 'onnxruntim'; did you mean 'onnxruntime'"),
        (('"minmax"', '"mimax"'), "unknown recipe 'mimax'; did you mean 'minmax'"),
        (("limit = 4", 'limit = "4"'), "limit"),
        (('path = "vision.onnx"', ""), "path is missing"),
        (("[[models]]", "[[model]]"), "the project has no field 'model'; did you mean 'models'"),
        (('"onnxruntime"', '"onnxptq"'), "is made twice"),
    ],
)
def test_mistakes(project: Path, refuses: Callable[..., str], change: tuple[str, str], said: str) -> None:
    (project / "onnxptq.toml").write_text(PROJECT.replace(*change))
    assert said in refuses("run")


def test_init_writes_a_project_that_runs(folder: Path, run: Run, refuses: Callable[..., str]) -> None:
    assert run("init").code == 0
    text = (folder / "onnxptq.toml").read_text()
    assert "is there already" in refuses("init")
    (folder / "onnxptq.toml").write_text(text + 'recipe = "rtn"\nlimit = 2\n')
    assert run("run", "--threads", "1").code == 0
    assert "quantized/vision.w8a8.onnxptq.onnx" in listing(folder)
    assert "none.onnx: no such file" in refuses("init", "none.onnx", "-o", "other.toml")


def test_a_broken_promise_ends_the_run(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxptq.pipeline.finishing.broken", lambda *_: ("--min-sqnr 99: too much",))
    done = run("run", "--threads", "1")
    assert done.code == 2
    assert "a promise is not kept: vision.w8a8.onnxptq.onnx: --min-sqnr 99" in done.err
    assert (project / "quantized" / "index.html").is_file()
