"""Calibration data named in one word: the samples of each name for each model, and refused names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import InputSpec
from onnxptq.datasets import zoo
from onnxptq.datasets.specs import is_named, open_named
from onnxptq.errors import InputError
from onnxptq.running.sessions import session

ENCODER = {"image": ["batch", 3, 128, 128]}
DECODER = {"image_embeddings": [1, 128, 16, 16], "point_coords": ["n", "k", 2], "point_labels": ["n", "k"]}
LAVT = {"image": ["batch", 3, 128, 128], "input_ids": ["batch", 20], "attention_mask": ["batch", 20]}


def start(path: Path) -> Any:
    return session(path, threads=1)


def opened(spec: str, inputs: dict[str, Any], count: int | None = 2, seed: int = 0) -> list[dict[str, np.ndarray]]:
    return list(open_named(spec, inputs, count=count, seed=seed, draw="first", start=start))


def test_what_is_a_name() -> None:
    assert all(is_named(spec) for spec in ("zoo:sam-mini", "sam:images/+a.json", "refcoco:/data/refcoco+"))
    assert not any(is_named(spec) for spec in ("synthetic", "images/", "zoo", "C:images", "sam.npz"))


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("sam-mini", ENCODER), ("sam-mini", DECODER), ("lavt-mini", LAVT), ("sam-mini-encoder", ENCODER)],
)
def test_zoo(name: str, inputs: dict[str, Any]) -> None:
    samples = open_named(f"zoo:{name}", inputs, count=3, seed=1, start=start)
    assert len(samples) == 3
    first, again = next(iter(samples)), next(iter(samples))
    assert set(first) == set(inputs)
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])


def test_zoo_unknown() -> None:
    with pytest.raises(InputError, match="choose zoo:sam-mini or zoo:lavt-mini"):
        opened("zoo:sam", ENCODER)


def test_images_for_an_encoder(coco_folder: Path) -> None:
    samples = opened(f"sam:{coco_folder}/images", ENCODER, None)
    assert [s["image"].shape for s in samples] == [(1, 3, 128, 128)] * 2
    assert (samples[0]["image"][:, :, 86:] == 0).all(), "60 x 40 becomes 128 x 85 and padding"
    assert samples[0]["image"][:, :, :85].std() > 0.5


def test_boxes_for_a_decoder(coco_folder: Path) -> None:
    spec = f"sam:{coco_folder}/images+{coco_folder}/instances.json+{zoo.path('sam-mini-encoder')}"
    first, second = opened(spec, DECODER)
    assert first["point_coords"].shape == (2, 2, 2), "crowds are no prompts"
    np.testing.assert_allclose(first["point_coords"][0], np.array([[5, 5], [25, 15]]) * 128 / 60, rtol=1e-2)
    assert second["point_labels"].tolist() == [[2, 3]]
    assert first["image_embeddings"].shape == (1, 128, 16, 16)
    more = opened(spec, DECODER | {"mask_input": [1, 1, 64, 64], "has_mask_input": [1]})[0]
    assert (more["mask_input"].shape, more["has_mask_input"].tolist()) == ((1, 1, 64, 64), [0])


def test_detected_boxes_for_a_decoder(coco_folder: Path) -> None:
    results = [{"image_id": 2, "category_id": 3, "bbox": [0, 0, 15, 15], "score": 0.4}]
    (coco_folder / "results.json").write_text(json.dumps(results))
    images = f"{coco_folder}/images+{coco_folder}/instances.json+{coco_folder}/results.json"
    spec = f"sam:{images}+{zoo.path('sam-mini-encoder')}"
    samples = opened(spec, DECODER)
    assert len(samples) == 1, "an image without a box is left out"
    np.testing.assert_allclose(samples[0]["point_coords"][0], [[0, 0], [64, 64]])


def test_sentences_of_the_train_split(refcoco_folder: Path) -> None:
    spec = f"refcoco:{refcoco_folder}+split=val"
    samples = opened(spec, LAVT, None)
    assert len(samples) == 2, "one sentence a ref"
    assert samples[0]["image"].shape == (1, 3, 128, 128)
    assert set(samples[0]) == set(LAVT)
    assert set(opened(spec, {k: v for k, v in LAVT.items() if k != "attention_mask"})[0]) == {"image", "input_ids"}
    ids = {tuple(s["input_ids"][0]) for seed in range(8) for s in opened(spec, LAVT, None, seed)}
    assert len(ids) == 3, "another seed may draw another sentence"
    with pytest.raises(InputError, match="no split 'train'"):
        opened(f"refcoco:{refcoco_folder}", LAVT)


@pytest.mark.parametrize(
    ("spec", "inputs", "message"),
    [
        ("sam:nowhere", ENCODER, "images nowhere: no such folder"),
        ("sam:FOLDER", {"image": [1, 3, "h", "w"]}, "no square image input"),
        ("sam:FOLDER/images", DECODER, r"needs sam:IMAGES\+INSTANCES\.json"),
        ("sam:FOLDER/images+FOLDER/instances.json", DECODER, r"needs sam:IMAGES\+INSTANCES\.json"),
        ("sam:FOLDER", ENCODER, "no sample in it"),
        ("refcoco:FOLDER+split=val", {"image": [1, 3, 64, 64]}, "no input_ids of a fixed length"),
        ("refcoco:FOLDER+split=val+partition=umd", LAVT, "no partition 'umd'"),
        ("refcoco:FOLDER+split=val+vocab=none.txt", LAVT, r"vocabulary none\.txt: cannot be read"),
    ],
)
def test_refused(refcoco_folder: Path, spec: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(spec.replace("FOLDER", str(refcoco_folder)), inputs)


def test_as_a_source() -> None:
    inputs = [InputSpec("image", np.dtype(np.float32), ("batch", 3, 128, 128))]
    source = open_source("zoo:sam-mini", inputs=inputs, samples=2, seed=3)
    assert len(source) == 2
    assert source.name == "2 samples of zoo:sam-mini"
    assert source.digest() == open_source("zoo:sam-mini", inputs=inputs, samples=2, seed=3).digest()
    assert source.digest() != open_source("zoo:sam-mini", inputs=inputs, samples=2, seed=4).digest()
