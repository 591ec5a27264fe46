"""Textured backgrounds, and the smooth random fields they are made of."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import numpy as np
from numpy.random import RandomState

from onnxptq.datasets.scenes.types import SIZE, Array

AXIS: Array = np.arange(SIZE, dtype=np.float32) + 0.5
"""Pixel centres."""


@cache
def _upsampler(cells: int, size: int = SIZE) -> Array:
    """Matrix [size, cells + 1] that interpolates a grid smoothly (cosine) to `size`."""
    pos = np.linspace(0, cells, size, endpoint=False, dtype=np.float64)
    low = np.floor(pos).astype(int)
    t = 0.5 - 0.5 * np.cos(np.pi * (pos - low))
    out = np.zeros((size, cells + 1), np.float32)
    out[np.arange(size), low] = 1 - t
    out[np.arange(size), low + 1] += t
    return out


def smooth_field(rng: RandomState, cells: int, size: int = SIZE) -> Array:
    """A smooth random field in [0, 1] with `cells` bumps across."""
    grid = rng.random_sample((cells + 1, cells + 1)).astype(np.float32)
    up = _upsampler(cells, size)
    field: Array = up @ grid @ up.T
    return field


@cache
def texture_bank() -> tuple[Array, Array]:
    """Fixed textures: 8 multi-octave fields [8, 448, 448] in about [0, 1], white noise [3, 512, 512]."""
    rng = RandomState(20240229)
    fields = np.zeros((8, 448, 448), np.float32)
    for k in range(8):
        amp, total, cells = 1.0, 0.0, (14, 20, 28, 40, 14, 28, 56, 20)[k]
        while cells <= 230:
            fields[k] += amp * smooth_field(rng, cells, 448)
            total += amp
            amp *= (0.55, 0.65, 0.75, 0.85, 0.6, 0.7, 0.8, 0.9)[k]
            cells *= 2
        fields[k] /= total
        fields[k] = (fields[k] - fields[k].mean()) / (4 * fields[k].std()) + 0.5
    noise = rng.standard_normal((3, 512, 512)).astype(np.float32)
    return fields, noise


def warm_up() -> None:
    """Build the fixed textures; call it before forking workers."""
    texture_bank()


def _texture(rng: RandomState) -> Array:
    fields, _ = texture_bank()
    y, x = rng.randint(0, 448 - SIZE, 2)
    crop = fields[rng.randint(8), y : y + SIZE, x : x + SIZE]
    if rng.rand() < 0.5:
        crop = crop.T
    return crop[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]


def ramp(rng: RandomState) -> Array:
    """A linear ramp in [0, 1] at a random angle."""
    a = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(a), math.sin(a)
    rise = (AXIS * np.float32(c / SIZE))[None, :] + (AXIS * np.float32(s / SIZE))[:, None]
    return (rise - (min(c, 0) + min(s, 0))) / (abs(c) + abs(s))


def _muted(rng: RandomState) -> Array:
    rgb = colorsys.hsv_to_rgb(rng.rand(), rng.uniform(0.03, 0.45), rng.uniform(0.22, 0.86))
    return np.array(rgb, np.float32)


def background(rng: RandomState) -> Array:
    """Float RGB background, planar [3, 256, 256] (numpy is slow on a last axis of 3)."""
    kind = rng.randint(6)
    fine = _texture(rng)
    if kind == 0:  # clouds
        t = 0.55 * smooth_field(rng, rng.randint(2, 6)) + 0.45 * fine
    elif kind == 1:  # gradient
        t = 0.8 * ramp(rng) + 0.2 * fine
    elif kind == 2:  # wavy stripes
        period = rng.uniform(16, 64)
        phase = ramp(rng) * np.float32(2 * math.pi * SIZE / period) + 4 * smooth_field(rng, rng.randint(2, 5))
        t = 0.5 + 0.35 * np.sin(phase) + 0.3 * (fine - 0.5)
    elif kind == 3:  # blobs with fairly sharp rims
        t = np.clip((smooth_field(rng, rng.randint(5, 12)) - 0.5) * rng.uniform(4, 16) + 0.5, 0, 1) * 0.8 + 0.2 * fine
    elif kind == 4:  # tiles
        p, q = rng.randint(18, 60, 2)
        cols, rows = (np.floor(AXIS / np.float32(k)) for k in (p, q))
        tiles = (cols[None, :] + rows[:, None]) % 2
        t = 0.25 + 0.4 * tiles + 0.35 * fine
    else:  # patches: texture through a threshold
        t = np.clip((fine - 0.5) * rng.uniform(2, 6) + 0.5, 0, 1)
    c1 = _muted(rng)
    c2 = np.clip(c1 + rng.uniform(-0.28, 0.28, 3).astype(np.float32), 0.06, 0.94)
    out: Array = t * (c2 - c1)[:, None, None]
    out += c1[:, None, None]
    if rng.rand() < 0.5:  # a third colour, smoothly
        c3 = np.clip(c1 + rng.uniform(-0.25, 0.25, 3).astype(np.float32), 0.06, 0.94)
        w = 0.7 * smooth_field(rng, rng.randint(2, 5))
        out *= 1 - w
        out += w * c3[:, None, None]
    for _ in range(rng.randint(0, 10)):  # pebbles: far smaller than any object
        r = rng.uniform(1.5, 3.5)
        x, y = rng.uniform(6, SIZE - 6, 2)
        x0, y0, k = int(x - r - 1), int(y - r - 1), int(2 * r + 3)
        dx, dy = AXIS[x0 : x0 + k] - x, (AXIS[y0 : y0 + k] - y) * rng.uniform(0.8, 1.6)
        a = 0.7 * np.clip(0.5 + r - np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2), 0, 1)
        patch = out[:, y0 : y0 + k, x0 : x0 + k]
        patch += a * (_muted(rng)[:, None, None] - patch)
    return out
