"""Window: a convolution as a linear on the places of its kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """Position of a convolution's kernel on its input, which makes it a linear."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def rows(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """A view [batch, places..., channels, kernel...] of the input under the kernel."""
        rank = len(self.shape)
        x = np.pad(x, [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)])
        spans = [(size - 1) * step + 1 for size, step in zip(self.shape, self.dilations, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
        places = tuple(slice(None, None, step) for step in self.strides)
        taps = tuple(slice(None, None, step) for step in self.dilations)
        view = view[(slice(None), slice(None), *places, *taps)]
        return np.moveaxis(view, 1, 1 + rank)
