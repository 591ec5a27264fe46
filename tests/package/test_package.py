"""Packages: pixels and boxes or a sentence in, masks out, as from the parts run from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from onnxptq.cli import main
from onnxptq.datasets import scenes, zoo
from onnxptq.errors import InputError
from onnxptq.evaluate.models import open_lavt, open_sam
from onnxptq.package.join import join
from onnxptq.package.lavt import package_lavt
from onnxptq.package.sam import package_sam
from onnxptq.quantizer import Quantizer
from onnxptq.running.metrics import mask_iou
from onnxptq.running.sessions import session

SIZES = [(256, 256), (400, 300), (100, 180), (128, 128), (61, 500)]


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Any:
    package = package_sam(zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder"))
    path = tmp_path_factory.mktemp("package") / "sam.onnx"
    onnx.save(package, str(path))
    return session(path, threads=1)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(mask_iou(one, other).mean())


@pytest.mark.parametrize("size", SIZES)
def test_boxes_to_masks(sam: Any, size: tuple[int, int]) -> None:
    scene = scenes.scene_for("testA", 2)
    image = np.asarray(Image.fromarray(scene.image).resize(size))
    boxes = np.array([o.box for o in scene.objects], np.float32) * np.array(
        [size[0] / 256, size[1] / 256] * 2, np.float32
    )
    masks, scores = sam.run(["masks", "scores"], {"image": image, "boxes": boxes})
    want = open_sam("zoo:sam-mini", threads=1).masks(image, boxes)
    assert masks.shape == want.masks.shape == (len(boxes), size[1], size[0])
    assert masks.dtype == np.bool_
    assert agreement(masks, want.masks) > 0.97
    np.testing.assert_allclose(scores, want.scores, atol=0.02)


def test_a_quantized_model_keeps_its_functions(tmp_path: Path) -> None:
    q = Quantizer(zoo.path("sam-mini-decoder"), recipe="minmax", bits="w8a8", threads=1)
    encoder = session(zoo.path("sam-mini-encoder"), threads=1)
    q.calibrate(list(zoo.decoder_calibration(encoder, 2)))
    q.quantize().save(tmp_path / "decoder.onnx")
    package = package_sam(zoo.path("sam-mini-encoder"), tmp_path / "decoder.onnx")
    assert any(f.domain == "onnxptq" for f in package.functions)
    scene = scenes.scene_for("testA", 1)
    boxes = np.array([o.box for o in scene.objects], np.float32)
    for executor in ("function", None):
        masks = session(package, executor=executor, threads=1).run(["masks"], {"image": scene.image, "boxes": boxes})[0]
        assert agreement(masks, np.stack([scene.mask(i) for i in range(len(boxes))])) > 0.7


@pytest.fixture(scope="module")
def lavt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    extensions = pytest.importorskip("onnxruntime_extensions")
    package = package_lavt(zoo.path("lavt-mini"), zoo.VOCABULARY)
    path = tmp_path_factory.mktemp("package") / "lavt.onnx"
    onnx.save(package, str(path))
    return session(path, libraries=[extensions.get_library_path()], threads=1)


@pytest.mark.parametrize("index", range(4))
def test_sentence_to_mask(lavt: Any, index: int) -> None:
    scene, ref = scenes.ref_sample("refscene-g", "testA", index)
    image = np.ascontiguousarray(scenes.at_size(scene, 128)[0].transpose(1, 2, 0))
    want = open_lavt("zoo:lavt-mini", threads=1).mask(image, ref.text)
    for size in ((128, 128), (256, 200)):
        resized = np.asarray(Image.fromarray(image).resize(size))
        mask = lavt.run(["mask"], {"image": resized, "text": np.array([ref.text], object)})[0]
        assert mask.shape == size[::-1]
        back = np.asarray(Image.fromarray(mask).resize((128, 128), Image.Resampling.NEAREST))
        assert agreement(back[None], want[None]) > (0.99 if size == (128, 128) else 0.8)


def test_the_tokenizer_cuts_and_pads(lavt: Any) -> None:
    image = np.ascontiguousarray(scenes.at_size(scenes.scene_for("testA", 0), 128)[0].transpose(1, 2, 0))
    predictor = open_lavt("zoo:lavt-mini", threads=1)
    for text in ("", "red", "the red circle " * 12, "Café – 日本 'x'"):
        mask = lavt.run(["mask"], {"image": image, "text": np.array([text], object)})[0]
        assert (mask != predictor.mask(image, text)).mean() < 0.002, text


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "sam", "--model", "zoo:sam-mini", "-o", str(tmp_path / "s.onnx"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["agreement"] > 99
    assert out["bytes"] == (tmp_path / "s.onnx").stat().st_size
    pytest.importorskip("onnxruntime_extensions")
    assert main(["package", "lavt", "--model", "zoo:lavt-mini", "-o", str(tmp_path / "l.onnx")]) == 0
    assert "same masks as the parts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sam", "--model", "gone"], "model 'gone': give ENCODER.onnx,DECODER.onnx"),
        (["lavt", "--model", "gone.onnx"], "model gone.onnx: no such file"),
        (["sam", "--model", "SWAPPED"], "expected one image input"),
        (["sam", "--model", "TWICE"], "decoder"),
        (["lavt", "--model", "ENCODER"], "LAVT: expected inputs"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    encoder, decoder = zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")
    names = {"SWAPPED": f"{decoder},{encoder}", "TWICE": f"{encoder},{encoder}", "ENCODER": str(encoder)}
    assert main(["package", *(names.get(word, word) for word in words), "-o", str(tmp_path / "x.onnx")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "x.onnx").exists()


def test_a_part_that_lacks_a_tensor_is_named() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["y"])], "g", [], [])
    with pytest.raises(InputError, match="tensor nowhere is read, but made by no part"):
        join(
            "x",
            [],
            [graph],
            inputs=[],
            outputs=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
            links={},
            opset=21,
            about={},
        )


def test_bodies_of_branches_read_outer_tensors() -> None:
    def branch(name: str, source: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node("Relu", [source], [name])], name, [], [out])

    late = helper.make_node("Neg", ["x"], ["late"])
    choose = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "late"), else_branch=branch("b", "x"))
    info = helper.make_tensor_value_info
    model = join(
        "x",
        [],
        [helper.make_graph([choose, late], "g", [], [])],
        inputs=[info("x", TensorProto.FLOAT, [1]), info("c", TensorProto.BOOL, [])],
        outputs=[info("y", TensorProto.FLOAT, [1])],
        links={},
        opset=21,
        about={},
    )
    assert [n.op_type for n in model.graph.node] == ["Neg", "If"]
    run = session(model, threads=1)
    assert run.run(None, {"x": np.array([-2.0], np.float32), "c": np.array(True)})[0].tolist() == [2.0]


def test_a_broken_file_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(zoo.path("sam-mini-decoder").read_bytes()[:100_000])
    files = f"{zoo.path('sam-mini-encoder')},{broken}", f"{broken},{zoo.path('sam-mini-decoder')}"
    for model in files:
        assert main(["package", "sam", "--model", model, "-o", str(tmp_path / "p.onnx")]) == 2
        assert f"{broken}: not an ONNX model, or cut off" in capsys.readouterr().err
    with pytest.raises(InputError, match="not an ONNX model"):
        package_lavt(broken, zoo.VOCABULARY)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]
