"""Outputs that may be masks: those with the size of an input picture, or larger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

Sample = Mapping[str, NDArray[Any]]
Pictures = tuple[tuple[int, int], ...]
"""Height and width of a sample's inputs that are pictures or feature maps: floats or bytes of four axes."""
COARSEST = 4
"""Maximum ratio of picture size to mask size; feature maps are coarser, except the first ones."""


def pictures(sample: Sample) -> Pictures:
    """The sizes of a sample's pictures, channels first or last."""
    maps = [array.shape for array in sample.values() if array.ndim == 4 and array.dtype.kind in "fu"]
    return tuple(s[1:3] if s[3] in (1, 3) and s[1] not in (1, 3) else s[2:] for s in maps)


def recorded(samples: Iterable[Sample], sizes: list[Pictures]) -> Iterator[Sample]:
    """Yield the samples, and add their pictures' sizes to ``sizes``."""
    for sample in samples:
        sizes.append(pictures(sample))
        yield sample


def fits(size: tuple[int, ...], sizes: Pictures | None) -> bool:
    """Whether masks of this size belong to one of the pictures: of its aspect and at most four times coarser, or larger
    than it both ways (masks drawn from features). Any size does where the sizes are not known."""
    height, width = size
    return sizes is None or any(
        (abs(height * w - width * h) <= max(h, w) and COARSEST * height >= h) or (height > h and width > w)
        for h, w in sizes
    )
