"""Window: a convolution as a linear on the places of its kernel."""

from __future__ import annotations

import math
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

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of places on an input of that shape."""
        return math.prod(self.rows(np.broadcast_to(np.float32(0), shape)).shape[: len(shape) - 1])

    def pick(self, x: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """The input under the kernel at the chosen places, as rows."""
        view = self.rows(x)
        return view[np.unravel_index(chosen, view.shape[: x.ndim - 1])].reshape(len(chosen), -1)
