"""The scene generator: pictures match their expressions, and never change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from onnxptq.datasets import scenes, zoo


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_objects_describe_the_id_map(split: str) -> None:
    for index in range(4):
        scene = scenes.scene_for(split, index)
        assert scene.planes.shape == (3, 256, 256)
        assert 3 <= len(scene.objects) <= scenes.MAX_OBJECTS
        assert scene.masks.shape[0] == len(scene.objects)
        for one, mask in zip(scene.objects, scene.masks, strict=True):
            rows, cols = np.nonzero(mask)
            assert one.area == len(rows)
            assert one.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert one.visible > 0.2


def test_splits_differ_in_size_of_objects() -> None:
    mean = {s: np.mean([o.area for i in range(6) for o in scenes.scene_for(s, i).objects]) for s in ("testA", "testB")}
    assert mean["testA"] > 2 * mean["testB"]


def test_layouts_and_expressions_are_frozen() -> None:
    """A digest of layouts and sentences: published figures hold only while these stay the same."""
    held = hashlib.sha256()
    for benchmark in scenes.BENCHMARKS:
        for scene, ref in scenes.ref_samples(benchmark, "val", 6):
            held.update(scene.idmap.tobytes())
            held.update(f"{ref.text} {ref.target} {ref.kind};".encode())
    assert held.hexdigest()[:16] == "989b050dc2d39a69"


@pytest.mark.parametrize("benchmark", scenes.BENCHMARKS)
def test_expressions_single_out_their_target(benchmark: str) -> None:
    for scene, ref in scenes.ref_samples(benchmark, "testB", 12):
        sure, maybe = scenes.resolve(ref.form, scene)
        assert (sure, maybe) == ({ref.target}, frozenset())
        assert scenes.is_unique(ref.form, scene, ref.target)
        others = [o.index for o in scene.objects if o.index != ref.target]
        assert not any(scenes.is_unique(ref.form, scene, other) for other in others)
        assert scenes.count_pieces(ref.text) <= scenes.MAX_PIECES
        assert "[UNK]" not in zoo.tokenizer().tokenize(ref.text)


def test_word_counts_are_the_tokenizers() -> None:
    for benchmark in scenes.BENCHMARKS:
        for _, ref in scenes.ref_samples(benchmark, "testA", 8):
            assert scenes.count_pieces(ref.text) == len(zoo.tokenizer().tokenize(ref.text))


def test_half_size_averages_pixels_and_votes_on_ids() -> None:
    scene = scenes.scene_for("val", 3)
    planes, ids = scenes.at_size(scene, 128)
    exact = scene.planes.reshape(3, 128, 2, 128, 2).mean((2, 4))
    assert np.abs(planes - exact).max() <= 0.5
    blocks = scene.idmap.reshape(128, 2, 128, 2).transpose(0, 2, 1, 3).reshape(128, 128, 4)
    whole = (blocks == blocks[..., :1]).all(-1)
    assert (ids[whole] == blocks[whole][:, 0]).all()
    assert scenes.at_size(scene, 256)[0] is scene.planes
    with pytest.raises(ValueError, match="256 or 128"):
        scenes.at_size(scene, 64)


def test_random_refs_repeat_when_a_scene_has_too_few() -> None:
    scene = scenes.scene_for("train", 5)
    refs = scenes.random_refs(scene, 6, np.random.RandomState(0))
    assert len(refs) == 6
    assert len({ref.target for ref in refs}) > 1


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown form"):
        scenes.resolve(("between", "a", ("all", ()), ("all", (("index", 0, True),))), scenes.scene_for("val", 0))
