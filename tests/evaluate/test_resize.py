"""Resizing equals torch's."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.evaluate.resize import bilinear, nearest


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    ("old", "new"), [((5, 7), (11, 4)), ((1, 3), (4, 9)), ((6, 6), (6, 6)), ((8, 4), (1, 1)), ((64, 64), (128, 128))]
)
def test_bilinear_equals_torch(old: tuple[int, int], new: tuple[int, int], align: bool) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.RandomState(0).randn(2, *old).astype(np.float32)
    want = torch.nn.functional.interpolate(torch.from_numpy(x)[None], new, mode="bilinear", align_corners=align)[
        0
    ].numpy()
    np.testing.assert_allclose(bilinear(x, *new, align_corners=align), want, atol=2e-5)


def test_nearest_equals_pillow() -> None:
    from PIL import Image

    x = np.random.RandomState(0).randint(0, 255, (13, 9), np.uint8)
    for size in ((7, 5), (13, 9), (40, 21), (1, 1)):
        want = np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.NEAREST))
        np.testing.assert_array_equal(nearest(x, *size), want)
