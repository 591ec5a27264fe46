"""Blocks: a bounded sample of a product's operands and output gradients, and the extrema of all values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64, NotFinite, Observed
from onnxptq.calibration.statistics.rows import spread_rows
from onnxptq.structure import Window

BUDGET = 1 << 21
"""Most numbers kept of one product (8 MiB)."""
KEYS = 256
"""Most keys whose scores are kept."""


class Blocks(Observed):
    """A few rows of the left operand from each sample, with the matching right operand and gradient: blocks [heads,
    rows, columns].

    Samples are kept while they fit the budget. ``extrema`` are those of all values, for each head of left and right.
    """

    def __init__(self, rows: int, heads: int = 1, *, weighted: bool = True) -> None:
        self.rows, self.heads, self.weighted = rows, heads, weighted
        self.blocks: list[tuple[F32, ...]] = []
        self.extrema: dict[str, F64] = {}
        self.samples, self.count = 0, 0

    def update(self, x: F32, *partners: F32) -> None:
        """Add one sample: the left operand, the right one unless it is constant, and the gradient."""
        if x.size:
            self._bounds("left", x)
            chosen = self._chosen(x, *partners)
            if not all(np.isfinite(part).all() for part in chosen):
                raise NotFinite
            if not self.blocks or self._size(self.blocks) + self._size([chosen]) <= BUDGET:
                self.blocks.append(tuple(np.array(part, np.float32) for part in chosen))
            self.count += x.size
        self.samples += 1

    @abstractmethod
    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        """One sample's block."""

    def _bounds(self, side: str, x: F32) -> None:
        view = self._by_head(x)
        found = np.stack([view.min(axis=(0, 2, 3)), view.max(axis=(0, 2, 3))]).astype(np.float64)
        if not np.isfinite(found).all():
            raise NotFinite
        self._widen(side, found)

    def _widen(self, side: str, found: F64) -> None:
        held = self.extrema.get(side, found)
        self.extrema[side] = np.stack([np.minimum(held[0], found[0]), np.maximum(held[1], found[1])])

    def _by_head(self, x: F32) -> F32:
        """[batch and windows, heads, rows, columns]; axis -3 may count both."""
        return x.reshape(-1, self.heads, *x.shape[-2:])

    def whole(self, side: str) -> tuple[F64, F64]:
        """Extrema of one side over all values."""
        low, high = self.extrema[side]
        return np.asarray(low.min()), np.asarray(high.max())

    @staticmethod
    def _size(blocks: list[tuple[F32, ...]]) -> int:
        return sum(part.size for block in blocks for part in block)

    def stacked(self) -> Iterator[tuple[F32, ...]]:
        """Blocks of one shape together: [samples, heads, rows, columns] of each part."""
        shapes: dict[tuple[Any, ...], list[tuple[F32, ...]]] = {}
        for block in self.blocks:
            shapes.setdefault(tuple(part.shape for part in block), []).append(block)
        for group in shapes.values():
            yield tuple(np.stack(parts) for parts in zip(*group, strict=True))

    def merge(self, other: Self) -> Self:
        """The blocks of both, as many as fit."""
        both = self._empty()
        for one in (self, other):
            for side, found in one.extrema.items():
                both._widen(side, found)
            for block in one.blocks:
                if not both.blocks or both._size(both.blocks) + both._size([block]) <= BUDGET:
                    both.blocks.append(block)
        both.samples, both.count = self.samples + other.samples, self.count + other.count
        return both

    def _empty(self) -> Self:
        return type(self)(self.rows, self.heads, weighted=self.weighted)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        kept = {f"block.{n}.{i}": part for n, block in enumerate(self.blocks) for i, part in enumerate(block)}
        return (
            kept
            | {f"extrema.{side}": found for side, found in self.extrema.items()}
            | {"meta": np.array([self.samples, self.count])}
        )

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.samples, self.count = (int(n) for n in arrays["meta"])
        self.extrema = {
            key.removeprefix("extrema."): np.array(a) for key, a in arrays.items() if key.startswith("extrema.")
        }
        parts: dict[int, list[F32]] = {}
        for key, array in arrays.items():
            if key.startswith("block."):
                parts.setdefault(int(key.split(".")[1]), []).append(np.array(array))
        self.blocks = [tuple(parts[n]) for n in sorted(parts)]

    def kind(self) -> Hashable:
        """Type and settings."""
        return (type(self).__name__, self.rows, self.heads, self.weighted)


class Rows(Blocks):
    """Rows of tokens, for products with a constant weight: left, and the gradient."""

    axis: ClassVar[int] = -1
    row_by_row = True

    def _by_head(self, x: F32) -> F32:
        return x.reshape(1, 1, -1, x.shape[-1])

    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        left = x.reshape(-1, x.shape[-1])
        rows = spread_rows(len(left), self.rows, self.samples * self.rows)
        return tuple(part.reshape(len(left), -1)[rows][None] for part in (x, *partners))


class Windows(Blocks):
    """Rows of a convolution's input under its kernel [places, channels and taps], and the gradient by place."""

    axis: ClassVar[int] = 1

    def __init__(self, rows: int, window: Window, *, weighted: bool = True) -> None:
        super().__init__(rows, weighted=weighted)
        self.window = window

    def _empty(self) -> Self:
        return type(self)(self.rows, self.window, weighted=self.weighted)

    def _by_head(self, x: F32) -> F32:
        return x.reshape(1, 1, -1, 1)

    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        count = self.window.count(x.shape)
        rows = spread_rows(count, self.rows, self.samples * self.rows)
        return (
            self.window.pick(x, rows)[None],
            *(np.moveaxis(part, 1, -1).reshape(count, -1)[rows][None] for part in partners),
        )

    def kind(self) -> Hashable:
        """Type and settings."""
        return (*cast(tuple[Hashable, ...], super().kind()), self.window)


class Channels(Blocks):
    """Places of a feature map [batch, channels, ...] as rows."""

    axis: ClassVar[int] = 1

    def _by_head(self, x: F32) -> F32:
        return x.reshape(1, 1, -1, 1)

    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        places = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        return (places[spread_rows(len(places), self.rows, self.samples * self.rows)][None],)


class Scores(Blocks):
    """Queries and keys of one window of every sample, all heads: left q, right k transposed; gradient of the scores."""

    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        self._bounds("right", partners[0])
        queries, keys = self._by_head(x), self._by_head(partners[0])
        window = int(spread_rows(len(queries), 1, self.samples)[0])
        rows, columns = (
            spread_rows(x.shape[-2], self.rows, self.samples * self.rows),
            spread_rows(keys.shape[-2], KEYS, self.samples),
        )
        found = [queries[window][:, rows], keys[window % len(keys)][:, columns].transpose(0, 2, 1)]
        return (*found, *(self._by_head(g)[window][:, rows][:, :, columns] for g in partners[1:]))


class Mixtures(Blocks):
    """Attention weights and values of one window of every sample, all heads: left p, right v; gradient of their
    product."""

    def _chosen(self, x: F32, *partners: F32) -> tuple[F32, ...]:
        self._bounds("right", partners[0])
        weights, values = self._by_head(x), self._by_head(partners[0])
        window = int(spread_rows(len(weights), 1, self.samples)[0])
        rows = spread_rows(x.shape[-2], self.rows, self.samples * self.rows)
        return (
            weights[window][:, rows],
            values[window % len(values)],
            *(self._by_head(g)[window][:, rows] for g in partners[1:]),
        )
