"""The predictors on the embedded models: masks, refused files, and the published figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxptq.cli import main
from onnxptq.datasets import scenes, zoo
from onnxptq.datasets.prompts import longest_side
from onnxptq.errors import InputError
from onnxptq.evaluate.models import open_lavt, open_sam, sam_files
from onnxptq.evaluate.predictors import LavtPredictor, SamPredictor
from onnxptq.evaluate.task import evaluate_task
from onnxptq.evaluate.tasks.scenes import SceneBoxes, SceneRefs


@pytest.fixture(scope="module")
def sam() -> SamPredictor:
    return open_sam("zoo:sam-mini", threads=1)


@pytest.fixture(scope="module")
def lavt() -> LavtPredictor:
    return open_lavt("zoo:lavt-mini", threads=1)


def test_sam_finds_objects(sam: SamPredictor) -> None:
    figures = evaluate_task(SceneBoxes("testA", 6), {"fp32": sam}).rows[0].figures
    assert figures["mIoU"] > 85
    assert figures["P@0.9"] > 45


def test_lavt_understands_sentences(lavt: LavtPredictor) -> None:
    figures = evaluate_task(SceneRefs("refscene-g", "testA", 16), {"fp32": lavt}).rows[0].figures
    assert figures["MIoU"] > 60


def test_photographs_of_any_shape(sam: SamPredictor) -> None:
    scene = scenes.scene_for("testA", 0)
    box = np.array([scene.objects[0].box], np.float32)
    true = scene.mask(0)
    wide = np.asarray(Image.fromarray(scene.image).resize((512, 256)))
    for image, factor in ((scene.image, 1), (wide, 2)):
        found = sam.masks(image, box * [factor, 1, factor, 1])
        assert found.masks.shape == (1, *image.shape[:2])
        want = np.asarray(Image.fromarray(true).resize((256 * factor, 256), Image.Resampling.NEAREST))
        inter, union = (found.masks[0] & want).sum(), (found.masks[0] | want).sum()
        assert inter / union > 0.75


def test_many_boxes_and_none(sam: SamPredictor) -> None:
    scene = scenes.scene_for("testA", 1)
    box = np.array([scene.objects[0].box], np.float32)
    many = sam.masks(scene.image, np.repeat(box, 70, 0))
    assert (many.masks == many.masks[0]).all()
    assert sam.masks(scene.image, np.zeros((0, 4))).masks.shape == (0, 256, 256)


def test_longest_side() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    assert longest_side(image, 64).shape == (3, 32, 64)
    assert longest_side(image.transpose(1, 0, 2), 64).shape == (3, 64, 32)
    assert longest_side(image[:, :50], 50).shape == (3, 50, 50)


def test_models_by_name(tmp_path: Path) -> None:
    encoder, decoder = zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")
    assert sam_files(f"{encoder},{decoder}") == (encoder, decoder)
    (tmp_path / "x-encoder.onnx").symlink_to(encoder)
    with pytest.raises(InputError, match=r"expected one \*decoder\*\.onnx, found none"):
        sam_files(str(tmp_path))
    (tmp_path / "x-decoder.onnx").symlink_to(decoder)
    assert sam_files(str(tmp_path))[1].name == "x-decoder.onnx"
    (tmp_path / "y-decoder.onnx").symlink_to(decoder)
    with pytest.raises(InputError, match=r"found x-decoder\.onnx, y-decoder\.onnx"):
        sam_files(str(tmp_path))
    for wrong in ("one.onnx", "a.onnx,b.onnx", f"{encoder},{decoder},c.onnx"):
        with pytest.raises(InputError, match=r"give ENCODER|no such file"):
            sam_files(wrong)
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        open_lavt("none.onnx")


def test_models_of_a_wrong_kind() -> None:
    encoder, decoder, lavt = (zoo.path(name) for name in zoo.MODELS)
    with pytest.raises(InputError, match="SAM encoder: expected one image input"):
        SamPredictor(lavt, decoder, threads=1)
    with pytest.raises(InputError, match="SAM decoder: no input named like 'embed'"):
        SamPredictor(encoder, encoder, threads=1)
    with pytest.raises(InputError, match="LAVT: expected inputs"):
        LavtPredictor(encoder, zoo.tokenizer(), threads=1)


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"SAM decoder .*bad\.onnx: onnxruntime does not load it"):
        SamPredictor(zoo.path("sam-mini-encoder"), tmp_path / "bad.onnx", threads=1)
    assert main(["evaluate", "ris", "--model", str(tmp_path / "bad.onnx")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert (
        main(
            [
                "evaluate",
                "sam",
                "--limit",
                "2",
                "--threads",
                "1",
                "--json",
                "--split",
                "testA",
                "--pictures",
                str(tmp_path / "p"),
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["samples"] == 2
    assert data["models"][0]["model"] == "zoo:sam-mini"
    assert "sam: 2 samples" in err
    assert len(list((tmp_path / "p").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "coco", "--model", "zoo:sam-mini"], "--data is missing; give instances.json"),
        (["evaluate", "coco", "--model", "zoo:sam-mini", "--data", "nothing.json"], "nothing.json: cannot be read"),
        (["evaluate", "refcoco", "--data", "nowhere"], "nowhere: no refs"),
        (["evaluate", "sam", "--split", "test"], "split 'test': choose train, val, testA, testB"),
        (["evaluate", "ris", "--benchmark", "refcoco"], "benchmark 'refcoco': choose refscene"),
        (["evaluate", "sam", "--quantized", "gone"], "model 'gone': give ENCODER.onnx,DECODER.onnx"),
        (["evaluate", "sam", "--quantized", "zoo:sam-mini"], "zoo:sam-mini is given twice"),
        (["evaluate", "vqa"], "vqa"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *(["--limit", "1"] if "vqa" not in words else [])]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("onnxptq:")]
    assert out == ""
    assert len(lines) == 1
    assert message in lines[0]


TORCH_SAM = {"val": (1484, 85.31, 41.51), "testA": (1009, 90.55, 65.71), "testB": (2088, 83.09, 28.21)}
"""Masks, mean IoU and P@0.9 that torch measured after training."""
TORCH_LAVT = {
    "refscene": {"val": (67.71, 62.56, 29.2), "testA": (74.15, 68.6, 45.6), "testB": (59.64, 51.31, 14.8)},
    "refscene+": {"val": (70.5, 66.19, 34.1)},
    "refscene-g": {"val": (74.17, 73.32, 37.3)},
}
"""MIoU, OIoU and P@0.9 likewise."""


def test_published_figures_are_those_of_training() -> None:
    published = zoo.metrics()
    for split, want in TORCH_SAM.items():
        found = published["sam-mini"][split]
        assert (found["masks"], found["mIoU"], found["P@0.9"]) == pytest.approx(want, abs=0.2)
    for benchmark, splits in TORCH_LAVT.items():
        for split, want in splits.items():
            found = published["lavt-mini"][benchmark][split]
            assert (found["MIoU"], found["OIoU"], found["P@0.9"]) == pytest.approx(want, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "testA", "testB"])
def test_published_figures_of_sam(sam: SamPredictor, split: str) -> None:
    figures = evaluate_task(SceneBoxes(split, 250), {"fp32": sam}).rows[0].figures
    assert figures == pytest.approx(zoo.metrics()["sam-mini"][split], abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", scenes.BENCHMARKS)
@pytest.mark.parametrize("split", ["val", "testA", "testB"])
def test_published_figures_of_lavt(lavt: LavtPredictor, benchmark: str, split: str) -> None:
    figures = evaluate_task(SceneRefs(benchmark, split, 1000), {"fp32": lavt}).rows[0].figures
    assert figures == pytest.approx(zoo.metrics()["lavt-mini"][benchmark][split], abs=0.2)
