"""COCO's mask encodings: round trips, agreement with COCO's own tools, and malformed ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxptq.datasets import rle
from onnxptq.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools under NumPy 2

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(masks)
def test_run_lengths_equal_cocos(mask: np.ndarray) -> None:
    theirs = pytest.importorskip("pycocotools.mask")
    coded = theirs.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = rle.uncompress(coded["counts"], "here")
    assert sum(counts) == mask.size
    np.testing.assert_array_equal(rle.from_counts(counts, *mask.shape, "here"), mask)
    np.testing.assert_array_equal(
        rle.decode({"size": list(mask.shape), "counts": coded["counts"]}, *mask.shape, "here"), mask
    )


def test_a_known_text() -> None:
    assert rle.uncompress("12345", "here") == [1, 2, 3, 6, 8]


corner = st.one_of(st.floats(-10, 50, width=32), st.integers(-5, 45).map(float))


@given(
    st.lists(corner, min_size=6, max_size=16).filter(lambda p: len(p) % 2 == 0), st.integers(1, 40), st.integers(1, 40)
)
def test_polygons_equal_cocos(polygon: list[float], height: int, width: int) -> None:
    theirs = pytest.importorskip("pycocotools.mask")
    want = theirs.decode(theirs.frPyObjects([polygon], height, width))[..., 0].astype(bool)
    np.testing.assert_array_equal(rle.decode([polygon], height, width, "here"), want)


def test_a_square() -> None:
    mask = rle.decode([[2, 1, 6, 1, 6, 4, 2, 4]], 6, 8, "here")
    want = np.zeros((6, 8), bool)
    want[1:4, 2:6] = True
    np.testing.assert_array_equal(mask, want)


def test_several_polygons_are_one_mask() -> None:
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]]
    assert rle.decode(parts, 8, 8, "here").sum() == 8


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 5], "counts": [20]}, r"mask of size \[4, 5\], but its image is \[4, 4\]"),
        ({"size": [4, 4], "counts": [3, 4]}, "add up to 7, not to 4 x 4"),
        ({"size": [4, 4], "counts": [-3, 19]}, "add up to 16"),
        ({"size": [4, 4], "counts": "P"}, "in the middle of a number"),
        ({"size": [4, 4], "counts": "\x01"}, "hold the character"),
        ({"size": [4, 4], "counts": ["a"]}, "not numbers"),
        ([[1, 2, 3, 4]], "has 4 coordinates"),
        ([[1, 2, 3, 4, 5, float("nan")]], "coordinates"),
        ([["a", "b"]], "not a list of numbers"),
        ({"size": [4, 4], "counts": [2**62] * 4 + [16]}, "add up to 18446744073709551632, not to 4 x 4"),
        ({"size": [4, 4], "counts": [2**70]}, "not numbers"),
        ({"size": [4, 4], "counts": [[16]]}, "add up to -1"),
        ({"size": 3, "counts": [16]}, "mask of size 3"),
        ({"size": [4, 4], "counts": "o" * 100000 + "0"}, "has more than 60 bits"),
        ([[0, 0, 1e7, 1, 1, 2]], "outline is 2.*pixels long, in an image of 4 x 4"),
        ([[0, 0, 1e300, 1, 1, 2]], "outline"),
        ([[1e308, 0, -1e308, 1, 1, 2]], "outline"),
        ([[1e9, 1e9, 1e9 + 1, 1e9, 1e9, 1e9 + 1, 1e18, 1e18]], "outline"),
        ([[10**400, 0, 1, 1, 2, 2]], "not a list of numbers"),
        ("polygon", "segmentation is str"),
        (7, "segmentation is int"),
    ],
)
def test_malformed_masks_name_the_place(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        rle.decode(segmentation, 4, 4, "file.json: annotation 3")
    assert str(error.value).startswith("file.json: annotation 3")
