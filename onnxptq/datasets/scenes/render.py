"""From a seed to pixels: layout, painting, id map."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from onnxptq.datasets.scenes.background import AXIS, background, ramp, smooth_field, texture_bank
from onnxptq.datasets.scenes.shapes import OUTLINES
from onnxptq.datasets.scenes.types import COLORS, MAX_OBJECTS, PATTERNS, SHAPES, SIZE, Array, Scene, SceneObject

# hue centre (degrees), hue jitter, saturation range, value range
_HSV = {
    "red": (0, 7, 0.78, 0.95, 0.74, 0.92),
    "orange": (27, 5, 0.85, 1.0, 0.92, 1.0),
    "yellow": (54, 5, 0.75, 0.95, 0.90, 1.0),
    "green": (125, 18, 0.60, 0.90, 0.48, 0.76),
    "cyan": (181, 8, 0.55, 0.85, 0.82, 0.96),
    "blue": (223, 9, 0.72, 0.92, 0.62, 0.90),
    "purple": (277, 9, 0.55, 0.80, 0.48, 0.74),
    "pink": (333, 9, 0.34, 0.54, 0.93, 1.0),
    "brown": (24, 5, 0.60, 0.76, 0.36, 0.47),
    "white": (0, 180, 0.0, 0.05, 0.94, 1.0),
    "black": (0, 180, 0.0, 0.30, 0.05, 0.12),
}


_HSV_MEAN = {
    name: np.array(colorsys.hsv_to_rgb(h / 360, (s0 + s1) / 2, (v0 + v1) / 2), np.float32)
    for name, (h, _, s0, s1, v0, v1) in _HSV.items()
}
_TILT = {"square": 22, "heart": 35, "diamond": 35, "star": 36}  # rotation limits in degrees, else free

_Geometry = tuple[slice, slice, Array, Array, Array]


@dataclass
class _Draft:
    shape: str
    color: str
    size: str
    pattern: str
    rotation: float
    radius: float
    x: float
    y: float


def _attributes(rng: RandomState, earlier: Sequence[_Draft]) -> tuple[str, str, str]:
    """Shape, colour and pattern; often shared with an earlier object so that one word is not enough."""
    shape, color = SHAPES[rng.randint(len(SHAPES))], COLORS[rng.randint(len(COLORS))]
    pattern = PATTERNS[0] if rng.rand() < 0.45 else PATTERNS[rng.randint(1, len(PATTERNS))]
    if earlier and rng.rand() < 0.6:
        twin, what = earlier[rng.randint(len(earlier))], rng.rand()
        if what < 0.65:
            shape = twin.shape
        if what > 0.40:
            color = twin.color
        if rng.rand() < 0.3:
            pattern = twin.pattern
    return shape, color, pattern


def _layout(rng: RandomState, profile: str) -> list[_Draft]:
    if profile == "large":
        n, p_large = rng.randint(3, 6), 0.85
    elif profile == "small":
        n, p_large = rng.randint(7, MAX_OBJECTS + 1), 0.06
    else:
        n, p_large = rng.randint(3, 9), rng.choice((0.2, 0.4, 0.6))
    drafts: list[_Draft] = []
    for _ in range(n):
        size = "large" if rng.rand() < p_large else "small"
        shape, color, pattern = _attributes(rng, drafts)
        reach = 0.66 if rng.rand() < 0.3 else 1.0  # below 1: this object may overlap others
        for attempt in range(40):
            if attempt == 25:
                size = "small"
            radius = rng.uniform(30, 44) if size == "large" else rng.uniform(15, 21)
            x, y = rng.uniform(0.95 * radius, SIZE - 0.95 * radius, 2)
            if all((x - d.x) ** 2 + (y - d.y) ** 2 > (reach * (radius + d.radius)) ** 2 for d in drafts):
                tilt = _TILT.get(shape, 180)
                drafts.append(_Draft(shape, color, size, pattern, rng.uniform(-tilt, tilt), radius, x, y))
                break
    drafts.sort(key=lambda d: -d.radius * rng.uniform(0.4, 1.0))  # mostly big ones at the back
    return drafts


def _local(d: _Draft, pad: int = 7) -> tuple[slice, slice, Array, Array]:
    """Window around a draft and its rotated local coordinates."""
    k = 1.34 * d.radius + pad
    x0, x1 = max(0, int(d.x - k)), min(SIZE, int(d.x + k) + 1)
    y0, y1 = max(0, int(d.y - k)), min(SIZE, int(d.y + k) + 1)
    a = math.radians(d.rotation)
    c, s = np.float32(math.cos(a)), np.float32(math.sin(a))
    dx, dy = (AXIS[x0:x1] - np.float32(d.x))[None, :], (AXIS[y0:y1] - np.float32(d.y))[:, None]
    return slice(y0, y1), slice(x0, x1), c * dx + s * dy, c * dy - s * dx


def _pattern(rng: RandomState, d: _Draft, u: Array, v: Array) -> Array:
    """Weight in [0, 1] of the second colour."""
    period = float(np.clip(0.42 * d.radius, 6.5, 12.5)) * rng.uniform(0.9, 1.1)
    w = np.float32(2 * math.pi / period)
    if d.pattern == "striped":
        if rng.rand() < 0.5:
            u = v
        return np.clip(0.5 + 1.3 * np.sin(w * u), 0, 1)
    if d.pattern == "dotted":
        w = w * np.float32(0.82)
        return np.clip(0.5 + 1.4 * (np.cos(w * u) + np.cos(w * v) - 0.75), 0, 1)
    w = w * np.float32(0.62)
    return np.clip(0.5 + 2.2 * np.sin(w * u) * np.sin(w * v), 0, 1)


def _rgb(rng: RandomState, name: str) -> Array:
    h, dh, s0, s1, v0, v1 = _HSV[name]
    hue = (h + rng.uniform(-dh, dh)) % 360 / 360
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(s0, s1), rng.uniform(v0, v1)), np.float32)


def _paint(rng: RandomState, img: Array, d: _Draft, geo: _Geometry) -> None:
    ys, xs, u, v, sd = geo
    patch = img[:, ys, xs]
    if rng.rand() < 0.6:  # soft shadow: the distance field, shifted
        oy, ox = rng.randint(1, 5), rng.randint(-4, 5)
        shade = np.clip(0.6 - np.roll(sd, (oy, ox), (0, 1)) / 5, 0, 1) * np.float32(rng.uniform(0.2, 0.45))
        patch *= 1 - shade
    base = _rgb(rng, d.color)[:, None, None]
    fill: Array = base
    if d.pattern != "solid":
        second = base * 0.40 if d.color not in ("black", "brown") else base + 0.55 * (1 - base)
        fill = _pattern(rng, d, u, v) * (second - base) + base
    a = rng.uniform(0, 2 * math.pi)
    g = rng.uniform(0.03, 0.16) / d.radius
    shading = 1 + np.float32(g * math.cos(a)) * u + np.float32(g * math.sin(a)) * v
    if rng.rand() < 0.25:  # darker rim
        shading = shading * (1 - 0.4 * np.clip(sd + 2.5, 0, 1))
    cover = np.clip(0.5 - sd, 0, 1)
    patch *= 1 - cover
    patch += fill * (shading * cover)


def make_scene(seed: int, profile: str = "mixed") -> Scene:
    """Render the scene of one seed; profile is ``mixed``, ``large`` (few, big) or ``small`` (many)."""
    rng = RandomState(seed % 2**32)
    img = background(rng)
    for _ in range(8):
        drafts = _layout(rng, profile)
        idmap = np.zeros((SIZE, SIZE), np.uint8)
        geos, full, hides = [], [], []
        for i, d in enumerate(drafts):
            ys, xs, u, v = _local(d)
            sd = OUTLINES[d.shape](u, v, np.float32(d.radius))
            inside = sd <= 0
            view = idmap[ys, xs]
            covered = np.bincount(view[inside], minlength=i + 1)
            hides.append(tuple((j - 1, int(covered[j])) for j in range(1, i + 1) if covered[j]))
            full.append(int(covered.sum()))
            view[inside] = i + 1
            geos.append((ys, xs, u, v, sd))
        seen = np.bincount(idmap.ravel(), minlength=len(drafts) + 1)[1:]
        if len(drafts) >= 3 and min(s / f for s, f in zip(seen, full, strict=True)) > 0.45:
            break
    objects = []
    for i, (d, geo) in enumerate(zip(drafts, geos, strict=True)):
        near = img[:, int(max(0, d.y - 9)) : int(d.y + 9) : 3, int(max(0, d.x - 9)) : int(d.x + 9) : 3].mean((1, 2))
        for _ in range(5):  # a colour that does not melt into the background
            if np.abs(_HSV_MEAN[d.color] - near).sum() > 0.42:
                break
            d.color = COLORS[rng.randint(len(COLORS))]
        ys, xs = geo[0], geo[1]
        vis = idmap[ys, xs] == i + 1
        rows, cols = np.flatnonzero(vis.any(1)), np.flatnonzero(vis.any(0))
        x0, x1, y0, y1 = xs.start + cols[0], xs.start + cols[-1] + 1, ys.start + rows[0], ys.start + rows[-1] + 1
        objects.append(
            SceneObject(
                i, d.shape, d.color, d.size, d.pattern, d.rotation, d.radius, (x0 + x1) / 2, (y0 + y1) / 2,
                (int(x0), int(y0), int(x1), int(y1)), int(seen[i]), float(seen[i] / full[i]), hides[i],
            )
        )  # fmt: skip
        _paint(rng, img, d, geo)
    light = 1 + rng.uniform(-0.02, 0.18) * (ramp(rng) - 0.6) + rng.uniform(0, 0.14) * (smooth_field(rng, 2) - 0.5)
    light *= 255
    img *= light
    img *= rng.uniform(0.97, 1.03, 3).astype(np.float32)[:, None, None]
    _, noise = texture_bank()
    y, x = rng.randint(0, 512 - SIZE, 2)
    img += noise[:, y : y + SIZE, x : x + SIZE] * np.float32(255 * rng.uniform(0.006, 0.028))
    np.clip(img, 0, 255, out=img)
    return Scene(seed, img.astype(np.uint8), idmap, tuple(objects))
