"""Endless batches of scenes for training, drawn by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from onnxptq.datasets import scenes
from onnxptq.datasets.prompts import mask_box
from onnxptq.datasets.wordpiece import WordPiece

Batch = dict[str, Tensor]


class BoxStream(IterableDataset[Batch]):
    """Scenes with several target objects each, and their boxes."""

    def __init__(self, count: int, objects: int, start: int, size: int) -> None:
        self.count, self.objects, self.start, self.size = count, objects, start, size

    def __iter__(self) -> Iterator[Batch]:
        index, stride = _share(self.start)
        rng = np.random.RandomState((index * 7919 + 29) % 2**32)
        while True:
            planes, idmaps, targets, boxes = [], [], [], []
            for _ in range(self.count):
                scene = scenes.scene_for("train", index)
                index += stride
                order = rng.permutation(len(scene.objects))
                chosen = [scene.objects[order[i % len(order)]] for i in range(self.objects)]
                pixels, ids = scenes.at_size(scene, self.size)
                planes.append(pixels)
                idmaps.append(ids)
                targets.append([o.index + 1 for o in chosen])
                boxes.append([mask_box(ids == o.index + 1) for o in chosen])
            yield {
                "planes": torch.from_numpy(np.stack(planes)),
                "idmap": torch.from_numpy(np.stack(idmaps)),
                "target": torch.tensor(targets, dtype=torch.uint8),
                "box": torch.tensor(boxes, dtype=torch.float32).reshape(self.count, self.objects, 2, 2),
            }


class RefStream(IterableDataset[Batch]):
    """Scenes with several expressions each, and every object's attributes for the auxiliary heads."""

    def __init__(self, count: int, refs: int, vocab: Path, start: int, size: int) -> None:
        self.count, self.refs, self.vocab, self.start, self.size = count, refs, vocab, start, size

    def __iter__(self) -> Iterator[Batch]:
        index, stride = _share(self.start)
        rng = np.random.RandomState((index * 7919 + 17) % 2**32)
        tokenizer = WordPiece.load(self.vocab)
        while True:
            found: list[dict[str, np.ndarray]] = []
            while len(found) < self.count:
                one = self._scene(scenes.scene_for("train", index), rng, tokenizer)
                index += stride
                if one is not None:
                    found.append(one)
            yield {name: torch.from_numpy(np.stack([one[name] for one in found])) for name in found[0]}

    def _scene(
        self, scene: scenes.Scene, rng: np.random.RandomState, tokenizer: WordPiece
    ) -> dict[str, np.ndarray] | None:
        picks = [scenes.BENCHMARKS[i] for i in rng.randint(0, 3, self.refs)]
        refs: list[scenes.Ref] = []
        for pick in picks:
            refs += scenes.random_refs(scene, 1, rng, (pick,)) or scenes.random_refs(scene, 1, rng)
        if len(refs) < self.refs:
            return None
        planes, idmap = scenes.at_size(scene, self.size)
        attributes = np.zeros((scenes.MAX_OBJECTS + 1, 4), np.int64)
        place = np.zeros((scenes.MAX_OBJECTS + 1, 3), np.float32)
        for o in scene.objects:
            place[o.index + 1] = o.cx / scenes.SIZE, o.cy / scenes.SIZE, np.log(o.radius / 24)
            attributes[o.index + 1] = (
                1 + scenes.SHAPES.index(o.shape),
                1 + scenes.COLORS.index(o.color),
                1 + scenes.PATTERNS.index(o.pattern),
                1 + scenes.SIZES.index(o.size),
            )
        return {
            "planes": planes,
            "idmap": idmap,
            "attributes": attributes,
            "place": place,
            "ids": np.stack([tokenizer.encode(ref.text) for ref in refs]),
            "target": np.array([ref.target + 1 for ref in refs], np.uint8),
        }


def endless(stream: IterableDataset[Batch], workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches on the device."""
    scenes.warm_up()
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=3 if workers else None,
    )
    for batch in loader:
        yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _share(start: int) -> tuple[int, int]:
    """First index and stride of this worker."""
    info = get_worker_info()
    return (start + info.id, info.num_workers) if info else (start, 1)
