"""The split of each scene, and its size."""

from __future__ import annotations

import numpy as np

from onnxptq.datasets.scenes.render import make_scene
from onnxptq.datasets.scenes.types import SIZE, Array, Scene

_SPLIT_BASE = {"train": 0, "val": 2_000_000_000, "testA": 2_400_000_000, "testB": 2_800_000_000}
_SPLIT_ROOM = 100_000_000  # held-out split: indices 0 .. _SPLIT_ROOM-1, then re-draws of the same index


def at_size(scene: Scene, size: int) -> tuple[Array, Array]:
    """Pixels uint8 [3, size, size] and id map uint8 [size, size] of a scene, full size or half size.

    Half size averages 2x2 pixels; an id needs a majority (the lower one wins a tie).
    """
    if size == SIZE:
        return scene.planes, scene.idmap
    if size * 2 != SIZE:
        raise ValueError(f"size must be {SIZE} or {SIZE // 2}")
    blocks = scene.planes.reshape(3, size, 2, size, 2)
    planes = ((blocks[:, :, 0].astype(np.uint16) + blocks[:, :, 1]).sum(-1, dtype=np.uint16) + 2) >> 2
    ids = scene.idmap.reshape(size, 2, size, 2).transpose(0, 2, 1, 3).reshape(size, size, 4)
    return planes.astype(np.uint8), np.ascontiguousarray(np.sort(ids, -1)[..., 1])


def scene_for(split: str, index: int, redraw: int = 0) -> Scene:
    """The scene of one split index.  `redraw` asks for a further scene of the same index."""
    if split == "train":
        seed = (_SPLIT_BASE[split] + index + redraw * 400_000_000) % 2_000_000_000
    else:
        seed = _SPLIT_BASE[split] + index % _SPLIT_ROOM + (redraw % 4) * _SPLIT_ROOM
    if split == "testA":
        profile = "large"
    elif split == "testB":
        profile = "small"
    else:
        profile = ("mixed", "large", "mixed", "small")[seed % 4]
    return make_scene(seed, profile)
