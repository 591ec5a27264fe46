"""Encoder and decoder apart: the same answers as Segment Anything's own ONNX decoder, and as the parts from Python."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxptq.cli import main
from onnxptq.datasets import scenes, zoo
from onnxptq.evaluate.models import open_sam
from onnxptq.package.sam import package_decoder, package_encoder, package_sam
from onnxptq.quantizer import Quantizer
from onnxptq.report.introduction import introduced
from onnxptq.running.sessions import session

NAMES = ["masks", "iou_predictions", "low_res_masks"]
ENCODER, DECODER = zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")


@pytest.fixture(scope="module")
def apart() -> tuple[Any, Any]:
    return session(package_encoder(ENCODER), threads=1), session(package_decoder(ENCODER, DECODER), threads=1)


def feeds(embeddings: Any, coords: Any, labels: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Inputs of the official decoder without a previous mask."""
    side = 4 * embeddings.shape[-1]
    return {
        "image_embeddings": embeddings,
        "point_coords": np.asarray(coords, np.float32),
        "point_labels": np.asarray(labels, np.float32),
        "mask_input": np.zeros((1, 1, side, side), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(size, np.float32),
    }


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small Segment Anything with random weights, and the folder of its two files."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("segment-anything is not installed")
    from onnxptq.models.sam.build import random_sam
    from onnxptq.models.sam.config import SamConfig
    from onnxptq.models.sam.package import modeling
    from onnxptq.models.sam.to_onnx import export_decoder, export_encoder

    torch.set_num_threads(1)
    modeling()
    folder = tmp_path_factory.mktemp("sam")
    config = SamConfig(
        image_size=64, embed_dim=32, depth=1, heads=2, global_attention=(), prompt_dim=32, decoder_mlp=64
    )
    sam = random_sam(config, 3)
    export_encoder(sam, folder / "encoder.onnx")
    export_decoder(sam, folder / "decoder.onnx", mask_input=True)
    return sam, folder


@pytest.mark.parametrize("single", [False, True])
def test_answers_of_segment_anything(sizes: tuple[Any, Path], single: bool) -> None:
    import torch

    theirs = importlib.import_module("segment_anything.utils.onnx").SamOnnxModel(sizes[0], return_single_mask=single)
    folder, rng = sizes[1], np.random.default_rng(0)
    package = package_decoder(folder / "encoder.onnx", folder / "decoder.onnx", single=single)
    ours = session(package, threads=1)
    for points, with_mask, size in ((1, 0, (48, 64)), (2, 1, (90, 70)), (5, 1, (64, 64))):
        labels = np.array([[1, -1, 0, 2, 3][:points]], np.float32)
        given = feeds(
            rng.normal(size=(1, 32, 4, 4)).astype(np.float32), rng.uniform(0, 64, (1, points, 2)), labels, size
        )
        given["mask_input"] = rng.normal(size=(1, 1, 16, 16)).astype(np.float32)
        given["has_mask_input"][:] = with_mask
        with torch.no_grad():
            wanted = theirs(*(torch.from_numpy(given[i.name]) for i in ours.get_inputs()))
        for name, one, other in zip(NAMES, ours.run(NAMES, given), wanted, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=2e-4, err_msg=f"{name}, {points} points")
            assert one.shape[1] == (1 if single else 4)


@pytest.mark.parametrize("size", [(256, 256), (180, 100), (61, 300)])
def test_masks_of_the_parts(apart: tuple[Any, Any], size: tuple[int, int]) -> None:
    from PIL import Image

    scene = scenes.scene_for("testA", 2)
    image = np.asarray(Image.fromarray(scene.image).resize(size[::-1]))
    boxes = np.array([o.box for o in scene.objects], np.float32) * np.array([size[1], size[0]] * 2, np.float32) / 256
    (embeddings,) = apart[0].run(None, {"image": image})
    coords = (boxes * np.float32(128 / max(size))).reshape(-1, 2, 2)
    given = feeds(embeddings, coords, np.tile([2, 3], (len(boxes), 1)), size)
    masks, scores = apart[1].run(NAMES[:2], given)
    wanted = open_sam("zoo:sam-mini", threads=1).masks(image, boxes)
    assert masks.shape == (len(boxes), 4, *size)
    assert ((masks[:, 0] > 0) == wanted.masks).mean() > 0.995
    np.testing.assert_allclose(scores[:, 0], wanted.scores, atol=0.02)


def test_no_prompts(apart: tuple[Any, Any]) -> None:
    image = scenes.scene_for("testA", 0).image
    (embeddings,) = apart[0].run(None, {"image": image})
    for prompts, points in ((0, 2), (0, 0), (1, 0)):
        given = feeds(embeddings, np.zeros((prompts, points, 2)), np.zeros((prompts, points)), (256, 256))
        masks, scores, low = apart[1].run(NAMES, given)
        assert masks.shape == (prompts, 4, 256, 256)
        assert scores.shape == (prompts, 4)
        assert low.shape == (prompts, 4, 64, 64)
    for kind, none in (
        ("boxes", {"boxes": np.zeros((0, 4), np.float32)}),
        ("points", {"point_coords": np.zeros((0, 3, 2), np.float32), "point_labels": np.zeros((0, 3), np.float32)}),
    ):
        one = session(package_sam(ENCODER, DECODER, kind), threads=1)  # type: ignore[arg-type]
        masks, scores = one.run(["masks", "scores"], {"image": image, **none})
        assert masks.shape == (0, 256, 256)
        assert scores.shape == (0,)


def test_points_in_one_file(apart: tuple[Any, Any]) -> None:
    """A click gets the padding point that Segment Anything's predictor adds; a box gets none."""
    one = session(package_sam(ENCODER, DECODER, "points"), threads=1)
    image = scenes.scene_for("testA", 0).image
    (embeddings,) = apart[0].run(None, {"image": image})
    for coords, labels, padded in (
        ([[[80, 90]]], [[1]], ([[[80, 90], [0, 0]]], [[1, -1]])),
        ([[[20, 30], [120, 140]]], [[2, 3]], ([[[20, 30], [120, 140]]], [[2, 3]])),
    ):
        given = {"point_coords": np.array(coords, np.float32), "point_labels": np.array(labels, np.float32)}
        (masks,) = one.run(["masks"], {"image": image, **given})
        wanted = apart[1].run(["masks"], feeds(embeddings, np.array(padded[0]) / 2, padded[1], (256, 256)))[0]
        assert masks.any()
        assert (masks == (wanted[:, 0] > 0)).mean() > 0.999


def test_a_mask_that_would_be_ignored_is_refused(apart: tuple[Any, Any]) -> None:
    (embeddings,) = apart[0].run(None, {"image": scenes.scene_for("testA", 0).image})
    given = feeds(embeddings, [[[40, 40]]], [[1]], (256, 256)) | {"has_mask_input": np.ones(1, np.float32)}
    with pytest.raises(Exception, match="this_decoder_has_no_mask_input"):
        apart[1].run(None, given)


def test_a_file_says_what_it_needs(tmp_path: Path) -> None:
    plain = introduced(package_decoder(ENCODER, DECODER))
    assert plain["needs"] == "a runtime for ONNX opset 21"
    assert "pixels of the image resized to a longer side of 128" in plain["package"]
    assert plain["side"] == "128"
    assert "version" not in plain
    q = Quantizer(DECODER, recipe="minmax", bits="w8a8", threads=1)
    q.calibrate(list(zoo.decoder_calibration(session(ENCODER, threads=1), 2)))
    q.quantize().save(tmp_path / "decoder.onnx")
    said = introduced(package_sam(ENCODER, tmp_path / "decoder.onnx"))
    assert "op library of onnxptq" in said["needs"]
    assert said["decoder"].startswith("bits w8a8, recipe minmax, format native")
    assert {"encoder", "version"} & set(said) == {"version"}


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["package", "sam", "--model", "zoo:sam-mini", "-o", str(tmp_path / "two"), "--apart"]
    assert main([*words, "--single-mask", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["agreement"] > 99
    assert [Path(one["path"]).name for one in out["files"]] == ["encoder.onnx", "decoder.onnx"]
    decoder = onnx.load(str(tmp_path / "two" / "decoder.onnx"))
    assert decoder.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1
    one = ["package", "sam", "--model", "zoo:sam-mini", "-o", str(tmp_path / "one.onnx"), "--prompts", "points"]
    assert main(one) == 0
    assert "needs    a runtime for ONNX opset 21" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lavt", "--apart"], "--apart is an option of sam"),
        (["sam", "--vocab", "v.txt"], "--vocab is an option of lavt"),
        (["sam", "--single-mask"], "--single-mask is an option of --apart"),
        (["sam", "--apart", "--prompts", "boxes"], "leave out --prompts"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["package", *words, "--model", "zoo:sam-mini", "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
