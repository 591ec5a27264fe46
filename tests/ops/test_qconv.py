"""QConv: the unit of ranges at run time, by the convolution's geometry."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.ops import specs
from onnxptq.ops.pack import store_weight
from onnxptq.ops.qconv import ranges
from onnxptq.ops.rows import row_range
from onnxptq.ops.uniform import affine_codes, affine_values

ONE = {"strides": [1, 1], "pads": [0, 0, 0, 0], "group": 1}


@pytest.mark.parametrize(
    ("shape", "changed", "found"),
    [
        ((8, 6, 1, 1), {}, "pixel"),
        ((8, 6, 1), {"strides": [1], "pads": [0, 0]}, "pixel"),
        ((8, 6, 1, 1), {"strides": [2, 1]}, "sample"),
        ((8, 6, 1, 1), {"pads": [0, 1, 0, 0]}, "sample"),
        ((8, 3, 1, 1), {"group": 2}, "sample"),
        ((8, 1, 1, 1), {}, "sample"),
        ((6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}, "channel"),
        ((12, 1, 3, 3), {"group": 6, "strides": [2, 2]}, "channel"),
        ((6, 1, 17, 17), {"group": 6}, "sample"),
        ((8, 6, 3, 3), {"pads": [1, 1, 1, 1]}, "sample"),
    ],
)
def test_ranges(shape: tuple[int, ...], changed: dict[str, object], found: str) -> None:
    """As fine as a sum of the convolution allows."""
    assert ranges(shape, **(ONE | changed)) == found  # type: ignore[arg-type]


def test_channels_of_unlike_size_keep_their_digits() -> None:
    """A depthwise convolution with ranges of each channel is as exact in a small channel as in a large one."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2, 4, 6, 6)) * np.array([1, 10, 100, 1000]).reshape(-1, 1, 1)).astype(np.float32)
    codes = np.full((4, 1, 1, 1), 1, np.uint8)
    given = (store_weight(codes, 8), np.ones(4, np.float32), np.zeros(4, np.int8))
    attributes = {"x_bits": 8, "w_bits": 8, "x_scheme": "token", "shape": [4, 1, 1, 1], "kernel_shape": [1, 1]}
    attributes |= {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 4}
    got = specs()["QConv"].reference(x, *given, **attributes)
    scale, zero = row_range(x, 8, (2, 3))
    coded = affine_values(affine_codes(x, scale, zero, 8), scale, zero)
    weight = got[0, 0, 0, 0] / coded[0, 0, 0, 0]
    np.testing.assert_allclose(got, weight * coded, rtol=1e-6)
    noise = np.square(coded - x).mean((0, 2, 3)) / np.square(x).mean((0, 2, 3))
    assert noise.max() < 1e-4
