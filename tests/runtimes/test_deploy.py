"""The programs of docs/deploy.md, word for word: each makes the mask that the predictor makes."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from onnxptq import Quantizer, library_path
from onnxptq.datasets import scenes, zoo
from onnxptq.datasets.prompts import longest_side
from onnxptq.evaluate.predictors import SamPredictor
from onnxptq.evaluate.resize import bilinear
from onnxptq.graph.save import save
from onnxptq.package.sam import package_decoder, package_encoder
from onnxptq.running.sessions import session
from tests.runtimes.conftest import HERE, driven, missing, served

PAGE = (HERE.parent.parent / "docs" / "deploy.md").read_text()
ENCODER, DECODER = zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")
SCENE = scenes.scene_for("val", 31)
IMAGE = np.ascontiguousarray(SCENE.image[:220])
CLICK = next((int(one.cx), int(one.cy)) for one in SCENE.objects if one.shape == "cross")


def program(head: str) -> str:
    """The code of the block whose fence says ``head``."""
    found = re.search(rf"^```{head}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, head
    return found[1]


class Files:
    """A picture, and the model's files for each target; the encoder stays as it is, for the sake of time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.png, self.ppm, self.encoder = folder / "picture.png", folder / "picture.ppm", folder / "encoder.onnx"
        for path in (self.png, self.ppm):
            Image.fromarray(IMAGE).save(path)
        save(package_encoder(ENCODER), self.encoder)
        self._made: set[Path] = set()

    def plain(self, target: str) -> Path:
        """The quantized decoder."""
        path = self.folder / f"{target}.onnx"
        if path not in self._made:
            q = Quantizer(DECODER, recipe="minmax", bits="w8a8", target=target, threads=1)
            q.calibrate(list(zoo.decoder_calibration(session(ENCODER, threads=1), 4)))
            q.quantize().save(path)
            self._made.add(path)
        return path

    def decoder(self, target: str) -> Path:
        """The same in Segment Anything's own layout."""
        path = self.folder / f"{target}.decoder.onnx"
        save(package_decoder(ENCODER, self.plain(target)), path)
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("deploy"))


def check(mask: Any, decoder: Path) -> None:
    """The mask is the predictor's, of the same decoder."""
    embeddings = SamPredictor(ENCODER, decoder, executor="function", threads=1).embed(longest_side(IMAGE, 128))
    scale = 128 / max(IMAGE.shape[:2])
    feeds = {
        "image_embeddings": embeddings,
        "point_coords": np.array([[[CLICK[0] * scale, CLICK[1] * scale], [0, 0]]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
    }
    low, scores = session(decoder, executor="function", threads=1).run(["low_res_masks", "iou_predictions"], feeds)
    inner = longest_side(IMAGE, 128).shape[1:]
    padded = bilinear(low[0, 1 + scores[0, 1:].argmax()], 128, 128)[: inner[0], : inner[1]]
    wanted = bilinear(padded, *IMAGE.shape[:2]) > 0
    found = np.asarray(mask) > 127
    assert found.shape == wanted.shape
    assert wanted.sum() > 500
    assert (found & wanted).sum() / (found | wanted).sum() > 0.985


def run(*words: str | Path, cwd: Path | None = None) -> None:
    """A program that must end well."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def python(files: Files, code: str, target: str, encoder: Path, decoder: Path) -> None:
    output = files.folder / f"{target}.png"
    path = files.folder / f"program_{target}.py"
    path.write_text("import sys\nsys.modules['onnxptq'] = None\n" + code)
    run(sys.executable, path, encoder, decoder, files.png, *map(str, CLICK), output)
    check(Image.open(output), files.plain(target))


@pytest.mark.slow
def test_python(files: Files) -> None:
    python(files, program("python plain"), "onnxruntime", files.encoder, files.decoder("onnxruntime"))


@pytest.mark.slow
def test_python_with_the_library(files: Files) -> None:
    library = library_path()
    if library is None:
        pytest.skip("no compiled op library here")
    code = program("python plain")
    opened = 'providers=["CPUExecutionProvider"])'
    with_library = program("python library").replace("libonnxptq_ops.so", str(library))
    code = code.replace(opened, "options, " + opened).replace("encoder = ", with_library + "\nencoder = ", 1)
    python(files, code, "onnxptq", files.encoder, files.decoder("onnxptq"))


@pytest.fixture(scope="module")
def segment(files: Files) -> Path:
    """The C++ program, linked to the library of onnxruntime's wheel."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        missing("there is no C++ compiler")
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    headers = (
        Path(given)
        if given
        else next(HERE.glob("node_modules/com.github.asus4.onnxruntime/**/ios-arm64/**/Headers"), None)
    )
    if headers is None or not (headers / "onnxruntime_cxx_api.h").is_file():
        missing("onnxruntime's headers are not installed (ONNXRUNTIME_INCLUDE names their folder)")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        missing("onnxruntime's wheel has no shared library here")
    held = files.folder / "lib"
    held.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (held / name).symlink_to(library)
    code, made = files.folder / "segment.cc", files.folder / "segment"
    code.write_text(program("cpp segment"))
    run(
        compiler,
        "-std=c++17",
        "-O1",
        "-Wall",
        code,
        "-I",
        headers,
        "-L",
        held,
        "-lonnxruntime",
        f"-Wl,-rpath,{held}",
        "-o",
        made,
    )
    return made


@pytest.mark.parametrize("target", ["onnxruntime", "onnxptq"])
@pytest.mark.slow
def test_cpp(files: Files, segment: Path, target: str) -> None:
    library = library_path() if target == "onnxptq" else None
    output = files.folder / f"{target}.pgm"
    words = [files.encoder, files.decoder(target), files.ppm, *map(str, CLICK), output]
    run(segment, *words, *([library] if library else []))
    check(Image.open(output), files.plain(target))
    wrong = subprocess.run(
        [segment, *words[:2], files.png, "1", "1", output], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "is not a binary PPM" in wrong.stderr


@pytest.mark.slow
def test_node(files: Files, node: None) -> None:
    output, code = files.folder / "node.pgm", HERE / "node_modules" / ".onnxptq-deploy.mjs"
    code.write_text(program("js segment"))
    try:
        run("node", code, files.encoder, files.decoder("web"), files.ppm, *map(str, CLICK), output, "128")
    finally:
        code.unlink()
    check(Image.open(output), files.plain("web"))


@pytest.mark.slow
def test_browser(files: Files, chromium: str, tmp_path: Path) -> None:
    (tmp_path / "ort").symlink_to(HERE / "node_modules" / "onnxruntime-web" / "dist")
    shutil.copy(files.decoder("web"), tmp_path / "decoder.onnx")
    for path in (files.encoder, files.png):
        shutil.copy(path, tmp_path)
    (tmp_path / "index.html").write_text(program("html page").replace("SIDE = 1024", "SIDE = 128"))
    with served(tmp_path) as url:
        text = driven("snippet.mjs", chromium, url=url, x=CLICK[0], y=CLICK[1])
    mask = np.frombuffer(base64.b64decode(text), np.uint8).reshape(IMAGE.shape[:2])
    check(mask, files.plain("web"))


@pytest.mark.slow
def test_openvino(files: Files) -> None:
    pytest.importorskip("openvino")
    python(files, program("python openvino"), "openvino", ENCODER, files.plain("openvino"))


def test_what_was_not_run_is_said() -> None:
    for section in ("Android and iOS", "TensorRT", "QNN"):
        assert re.search(rf"^## {section}\n\nNot run", PAGE, re.MULTILINE)
