"""`onnxptq web`: the files of a site, and bad input. tests/runtimes/test_page.py drives the page in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxptq.cli import main
from onnxptq.datasets import zoo
from onnxptq.package.site import LONGEST, RUNTIME
from onnxptq.quantizer import Quantizer
from onnxptq.running.sessions import session

ENCODER, DECODER = str(zoo.path("sam-mini-encoder")), str(zoo.path("sam-mini-decoder"))


@pytest.fixture(scope="module")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for onnxruntime-web."""
    folder = tmp_path_factory.mktemp("ort")
    (folder / "dist").mkdir()
    for name in RUNTIME:
        (folder / "dist" / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded decoder."""
    path = tmp_path_factory.mktemp("quantized") / "decoder.onnx"
    q = Quantizer(DECODER, recipe="minmax", bits="w8a8", target="web", threads=1)
    q.calibrate(list(zoo.decoder_calibration(session(ENCODER, threads=1), 2)))
    q.quantize().save(path)
    return str(path)


def facts(folder: Path) -> dict[str, Any]:
    """What the page is told."""
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', (folder / "index.html").read_text())
    assert found is not None
    told: dict[str, Any] = json.loads(found[1])
    return told


class Links(HTMLParser):
    """Addresses in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_a_site_of_given_files(tmp_path: Path, ort: Path, quantized: str, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "wide <b>.png"
    Image.fromarray(np.zeros((30, 2 * LONGEST, 3), np.uint8)).save(picture)
    given = ["--encoder", ENCODER, "--decoder", DECODER, quantized, "--picture", str(picture), "--ort", str(ort)]
    site = tmp_path / "site"
    assert main(["web", str(site), *given, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["names"] == ["FP32", "w8a8"]
    assert out["bytes"]["original"] > out["bytes"]["quantized"] > 10**6
    told = facts(site)
    assert told["side"] == 128
    (shown,) = told["pictures"]
    assert shown["name"] == "wide <b>"
    assert Image.open(site / shown["file"]).size == (LONGEST, 15)
    for model in told["models"]:
        for part in ("encoder", "decoder"):
            onnx.checker.check_model(onnx.load(str(site / model[part])))
    text = (site / "index.html").read_text()
    links = Links()
    links.feed(text)
    assert len(links.found) == 3
    assert all(link == "data:," or (site / link).is_file() for link in links.found)
    assert "//" not in re.sub(
        r"(?m)^ *//.*$|// pixels.*$", "", text + (site / "web.js").read_text() + (site / "web_worker.js").read_text()
    )
    assert {one.name for one in (site / "ort").iterdir()} == set(RUNTIME)


def test_the_embedded_model(tmp_path: Path, ort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    words = ["--recipe", "rtn", "--bits", "w6a8", "--samples", "1", "--threads", "1", "--ort", str(ort / "dist")]
    assert main(["web", str(site), *words]) == 0
    said = capsys.readouterr().out
    assert "w6a8" in said
    assert "python -m http.server -d" in said
    assert len(facts(site)["pictures"]) == 5
    assert "learnt from drawn scenes" in (site / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ort", "nowhere"], "--ort nowhere: has no ort.wasm.min.mjs"),
        ([], "onnxruntime-web is not installed; run `npm install onnxruntime-web`"),
        (["--ort", "ORT", "--encoder", ENCODER, ENCODER], "web: --decoder is missing"),
        (["--ort", "ORT", "--decoder", ENCODER, ENCODER], "web: --encoder is missing"),
        (["--ort", "ORT", "--encoder", ENCODER, "--decoder", DECODER], "there is nothing to compare"),
        (["--ort", "ORT", "--encoder", *3 * [ENCODER], "--decoder", DECODER], "--encoder has 3 files"),
        (
            ["--ort", "ORT", "--encoder", ENCODER, "gone.onnx", "--decoder", DECODER],
            "--encoder gone.onnx: no such file",
        ),
        (["--ort", "ORT", "--encoder", ENCODER, DECODER, "--decoder", DECODER], "expected one image input"),
        (["--ort", "ORT", "--encoder", ENCODER, ENCODER, "--decoder", DECODER, "--bits", "w4a4"], "--bits is of the"),
        (["--ort", "ORT", "--picture", "gone.png"], "gone.png"),
        (["--ort", "ORT", "--bits", "w9a9"], "w9a9"),
    ],
)
def test_bad_input(
    words: list[str],
    message: str,
    tmp_path: Path,
    ort: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["web", "site", *(str(ort) if word == "ORT" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "site").exists()
