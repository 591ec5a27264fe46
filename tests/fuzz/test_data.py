"""Mutated data files through every reader: each gives a value, or one line with its fault."""

from __future__ import annotations

import json
import pickle
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxptq.bits import Bits
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import InputSpec
from onnxptq.datasets.coco import Coco
from onnxptq.datasets.dota import read_label_file
from onnxptq.datasets.images import read_image
from onnxptq.datasets.refcoco import RefCoco
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError, message
from onnxptq.evaluate.grid import Cell, Folder
from onnxptq.ops.uniform import UniformParams
from onnxptq.placement import applied
from onnxptq.plan import Choice, Plan
from onnxptq.recipe import Recipe
from onnxptq.structure import Part, Role, Site, Structure
from tests.fuzz.data_mutator import mutated, spoiled, toml

Case = Callable[[Path, random.Random], object]
"""Write a mutated file into a folder and read it."""
SITES = (
    Site("w", "linear", Role.WEIGHT, channels=20, axis=1),
    Site("x", "linear", Role.LINEAR_INPUT, channels=4),
    Site("g", "mlp", Role.GELU, Part.TEXT),
    Site("p", "av", Role.SOFTMAX),
)
STRUCTURE = Structure(sites=SITES)
RECIPE = {
    "description": "mine",
    "passes": ["fold-bn", "smooth"],
    "pass": {"smooth": {"alpha": 0.4}},
    "selection": ["rounded", "omse"],
    "weights": {"calibrator": "asymmetric", "rows": 3},
    "activations": {"calibrator": "best", "candidates": ["minmax", "lloyd"], "largest": 31},
    "roles": {"softmax": {"calibrator": "agq", "scheme": "log_base", "taus": [1.0], "exponent": 2.0}},
    "rules": [{"parts": ["text"], "roles": ["gelu"], "pattern": "^mlp", "calibrator": "drq", "n": 5, "alpha": 0.1}],
    "settings": {"wide": {"default": "on", "on": {"weights": {"bits": 8}}, "off": {"activations": {"bits": 32}}}},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10], "area": 200.0, "iscrowd": 0}
        | {"segmentation": [[5, 5, 25, 5.5, 25, 15, 5, 15]]},
        {"id": 13, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 40], "area": 400, "iscrowd": 1}
        | {"segmentation": {"size": [40, 60], "counts": [0, 400, 2000]}},
        {"id": 14, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 40], "area": 400, "iscrowd": 1}
        | {"segmentation": {"size": [40, 60], "counts": "0`<`n1"}},
    ],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.5}]
REFS = [
    {"ref_id": 0, "ann_id": 11, "image_id": 1, "split": "val", "sentences": [{"sent": "a cat", "raw": "A cat"}]},
    {"ref_id": 1, "ann_id": 13, "image_id": 1, "split": "testA", "sentences": [{"sent": "cats"}, {"sent": "many"}]},
]
SAMPLES = [InputSpec("x", np.dtype(np.float32), ("batch", 3)), InputSpec("n", np.dtype(np.int64), (2,), below=5)]


def _plan() -> Plan:
    scale = np.linspace(0.1, 2, 20, dtype=np.float32)[None]
    params = UniformParams(6, scale, np.full((1, 20), 31, np.uint8))
    choices = {
        SITES[0]: Choice("uniform", "omse", 6, "channel", params=params),
        SITES[1]: Choice("token", "token", 8, "row"),
    }
    return Plan(choices, recipe="omse", bits="w6a8", passes={"fold-bn": {}}, model="0123")


def _text(path: Path, tree: Any, rng: random.Random) -> Path:
    """JSON of the mutated tree; now and then its bytes are spoiled as well."""
    text = json.dumps(mutated(tree, rng)).encode()
    path.write_bytes(spoiled(text, rng) if rng.random() < 0.2 else text)
    return path


def recipe(folder: Path, rng: random.Random) -> object:
    tree = mutated(RECIPE, rng)
    text = toml(tree if isinstance(tree, dict) else {"a": tree}).encode()
    (folder / "r.toml").write_bytes(spoiled(text, rng) if rng.random() < 0.2 else text)
    return Recipe.load(folder / "r.toml").plan(STRUCTURE, Bits(6, 8))


def plan(folder: Path, rng: random.Random) -> object:
    made = Plan.load(_text(folder / "p.json", json.loads(_plan().to_json()), rng))
    Recipe.load("omse").of(made)
    return applied(made, STRUCTURE)


def coco(folder: Path, rng: random.Random) -> object:
    data = Coco.load(_text(folder / "instances.json", COCO, rng))
    return [photo.masks() for photo in data]


def results(folder: Path, rng: random.Random) -> object:
    (folder / "instances.json").write_text(json.dumps(COCO))
    return Coco.load(folder / "instances.json").detections(_text(folder / "results.json", RESULTS, rng))


def refs(folder: Path, rng: random.Random) -> object:
    (folder / "instances.json").write_text(json.dumps(COCO))
    data = pickle.dumps(mutated(REFS, rng), rng.randrange(6))
    (folder / "refs(unc).p").write_bytes(spoiled(data, rng) if rng.random() < 0.5 else data)
    return [expression.mask() for expression in RefCoco.load(folder, split="val")]


def labels(folder: Path, rng: random.Random) -> object:
    text = b"imagesource:GoogleEarth\ngsd:0.1\n1.0 2 3 4 5 6 7 8 plane 0\n10 20 30 40 50 60 70 80 ship 1\n"
    (folder / "P1.txt").write_bytes(spoiled(text, rng))
    return read_label_file(folder / "P1.txt")


def vocabulary(folder: Path, rng: random.Random) -> object:
    (folder / "vocab.txt").write_bytes(spoiled("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\nü\n".encode(), rng))
    return WordPiece.load(folder / "vocab.txt").encode("a ab ü")


def arrays(folder: Path, rng: random.Random) -> object:
    save = rng.choice((np.savez, np.savez_compressed))
    save(folder / "a.npz", x=np.ones((2, 3), np.float32), n=np.array([1, 2]))
    (folder / "a.npz").write_bytes(spoiled((folder / "a.npz").read_bytes(), rng))
    return list(open_source(folder / "a.npz", inputs=SAMPLES))


def array(folder: Path, rng: random.Random) -> object:
    np.save(folder / "a.npy", np.ones((2, 3), np.float32))
    (folder / "a.npy").write_bytes(spoiled((folder / "a.npy").read_bytes(), rng))
    return list(open_source(folder / "a.npy", inputs=SAMPLES[:1]))


def image(folder: Path, rng: random.Random) -> object:
    kind = rng.choice(("png", "jpg", "bmp", "gif", "tif", "webp", "ppm"))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"a.{kind}")
    path = folder / f"b.{rng.choice((kind, 'png'))}"
    path.write_bytes(spoiled((folder / f"a.{kind}").read_bytes(), rng))
    found = read_image(path)
    assert found.ndim == 3
    return found


def checkpoint(folder: Path, rng: random.Random) -> object:
    """Whatever is damaged, what is given back is what was saved."""
    saved = [{"low": np.arange(5.0), "count": np.array(3)}, {"rows": np.ones((2, 3), np.float32)}]
    Checkpoint(folder / "r", {"model": "m"}).save(0, "mark", [2, 1], saved)
    victim = rng.choice(sorted((folder / "r").iterdir()))
    victim.write_bytes(spoiled(victim.read_bytes(), rng))
    again = Checkpoint(folder / "r", {"model": "m"}, resume=True)
    state = again.load(0, "mark")
    if state is not None:
        assert state.seen == (2, 1)
        for before, after in zip(saved, state.arrays, strict=True):
            assert before.keys() == after.keys()
            assert all(np.array_equal(before[key], after[key]) for key in before)
    return state


def cells(folder: Path, rng: random.Random) -> object:
    made = Folder(folder / "t", {"task": "sam"})
    made.put(Cell("omse", "w4a4", "val", {"mIoU": 80.0}))
    victim = rng.choice(sorted((folder / "t").rglob("*.json")))
    _text(victim, json.loads(victim.read_text()), rng)
    return Folder(folder / "t", {"task": "sam"}).get("omse", "w4a4", "val")


READERS: tuple[Case, ...] = (
    recipe, plan, coco, results, refs, labels, vocabulary, arrays, array, image, checkpoint, cells,
)  # fmt: skip


def campaign(read: Case, folder: Path, first: int, count: int) -> Counter[str]:
    """How the cases ended; anything but a value or one line fails with its number."""
    ends: Counter[str] = Counter()
    for number in range(first, first + count):
        here = folder / str(number)
        here.mkdir()
        Image.new("RGB", (60, 40)).save(here / "a.png")
        try:
            read(here, random.Random(number))
            ends["right"] += 1
        except InputError as error:
            ends["refused" if message(str(error)).isprintable() else "several lines"] += 1
        except Exception as error:
            raise AssertionError(f"case {number} of {read.__name__}: {type(error).__name__}: {error}") from error
    return ends


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_what_is_mutated_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Case) -> None:
    monkeypatch.setattr("tests.fuzz.test_data.mutated", lambda tree, rng: tree)
    monkeypatch.setattr("tests.fuzz.test_data.spoiled", lambda data, rng: data)
    assert campaign(read, tmp_path, 0, 3)["right"] == 3


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_short_run(tmp_path: Path, read: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = campaign(read, tmp_path, 0, 25)
    assert ends["right"] + ends["refused"] == 25
    assert ends["refused"] or read is checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_long_run(tmp_path: Path, read: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = campaign(read, tmp_path, 1000, 1000)
    assert ends["right"] + ends["refused"] == 1000
    assert ends["right"] > 10
    assert ends["refused"] > 10 or read is checkpoint
