"""The embedded models and their samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxptq.datasets import zoo
from onnxptq.errors import InputError
from onnxptq.running.sessions import session


def test_models_are_small_and_sound() -> None:
    total = 0
    for name in zoo.MODELS:
        path = zoo.path(name)
        total += path.stat().st_size
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
        wide = [
            t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 64
        ]
        assert not wide, "weights are stored in half precision"
    assert total < 30e6


def test_calibration_samples_fit_the_models() -> None:
    encoder = session(zoo.path("sam-mini-encoder"), threads=1)
    decoder, lavt = (session(zoo.path(name), threads=1) for name in ("sam-mini-decoder", "lavt-mini"))
    images = list(zoo.encoder_calibration(2))
    assert encoder.run(None, images[0])[0].shape == (1, 128, 16, 16)
    for prompts in zoo.decoder_calibration(encoder, 2):
        count = len(prompts["point_coords"])
        masks, scores = decoder.run(None, prompts)
        assert count >= 3
        assert masks.shape == (count, 4, 64, 64)
        assert scores.shape == (count, 4)
    for feeds in zoo.lavt_calibration(3):
        assert lavt.run(None, feeds)[0].shape == (1, 2, 128, 128)
        assert 0 < feeds["attention_mask"].sum() < 20


def test_calibration_can_be_walked_again_and_depends_on_the_seed() -> None:
    samples = zoo.encoder_calibration(2)
    assert len(samples) == 2
    first, again = (np.stack([s["image"] for s in samples]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = np.stack([s["image"] for s in zoo.encoder_calibration(2, seed=1)])
    assert not np.array_equal(first, other)


def test_prompts_are_boxes_of_their_masks() -> None:
    for sample in zoo.prompt_samples("testB", 3):
        for mask, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes.astype(int), strict=True):
            assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
            assert mask[y0].any()
            assert mask[:, x1].any()
        feeds = sample.decoder_feeds(np.zeros((1, 128, 16, 16), np.float32))
        assert feeds["point_labels"].tolist() == [[2, 3]] * len(sample.boxes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.path("sam"), "zoo model 'sam': choose sam-mini-encoder"),
        (lambda: next(zoo.prompt_samples("test", 1)), "split 'test': choose train"),
        (lambda: next(zoo.ref_samples("refcoco", "val", 1)), "benchmark 'refcoco': choose refscene"),
    ],
)
def test_unknown_names(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
