"""RowSample: a bounded sample of a tensor's rows, for errors that need whole rows. Whole: a constant, unchanged."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, Axes, NotFinite, Observed, Observer, arranged

U64 = NDArray[np.uint64]


def split_mix(z: U64) -> U64:
    """The splitmix64 generator's output for each state."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    result: U64 = z ^ z >> np.uint64(31)
    return result


def spread_rows(rows: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """One row of each of ``wanted`` equal sections: a fixed stride could match the period of windows or image rows."""
    taken = min(rows, wanted)
    edges = np.array([k * rows // taken for k in range(taken + 1)], np.int64)
    noise = split_mix((seed + np.arange(taken)).astype(np.uint64))
    return edges[:-1] + (noise % np.diff(edges).astype(np.uint64)).astype(np.int64)


class RowSample(Observed):
    """At most ``rows`` rows of all samples: evenly spread ones of each sample, and among these the rows of least hash.

    The hash covers the row's content, so the order and grouping of samples do not matter. Columns are the channels of
    ``axis`` (several axes: all their combinations). If rows differ in length (texts), shorter ones are filled with
    zeros.
    """

    def __init__(self, rows: int = 512, axis: Axes = -1, heads: int | None = None, seed: int = 0) -> None:
        self.rows, self.axis, self.heads, self.seed = rows, axis, heads, seed
        self.sample: F32 = np.zeros((0, 0), np.float32)
        self.hashes: U64 = np.zeros(0, np.uint64)
        self.seen = 0

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        if not x.size:
            return
        view, others = arranged(x, self.axis, self.heads)
        kept = tuple(a for a in range(view.ndim) if a not in others)
        matrix = view.transpose(*others, *kept).reshape(-1, int(np.prod([view.shape[a] for a in kept])))
        self._add(matrix[spread_rows(len(matrix), self.rows, self.seed)], len(matrix))

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the rows from op ``SampleRows``."""
        if 0 not in shape:
            self._add(outputs[0], math.prod(shape) // outputs[0].shape[1])

    def _add(self, chosen: F32, seen: int) -> None:
        if not np.isfinite(chosen).all():
            raise NotFinite
        chosen = np.ascontiguousarray(chosen, np.float32)
        keys = split_mix(np.arange(chosen.shape[1], dtype=np.uint64) + np.uint64(self.seed)) | np.uint64(1)
        self._keep(
            chosen, split_mix((split_mix(chosen.view(np.uint32).astype(np.uint64)) * keys).sum(axis=1, dtype=np.uint64))
        )
        self.seen += seen

    def _keep(self, more: F32, hashes: U64) -> None:
        """Keep the rows of least hash among the held and the new ones."""
        width = max(self.sample.shape[1], more.shape[1])
        together = np.concatenate([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (self.sample, more)])
        both = np.concatenate([self.hashes, hashes])
        least = np.argsort(both, kind="stable")[: self.rows]
        self.sample, self.hashes = together[least], both[least]

    def merge(self, other: Self) -> Self:
        """The sample of both."""
        both = type(self)(self.rows, self.axis, self.heads, self.seed)
        for one in (self, other):
            both._keep(one.sample, one.hashes)
            both.seen += one.seen
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"sample": self.sample, "hashes": self.hashes, "seen": np.array(self.seen)}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.sample, self.hashes, self.seen = (
            np.array(arrays["sample"]),
            np.array(arrays["hashes"]),
            int(arrays["seen"]),
        )

    def kind(self) -> Hashable:
        """Type and settings."""
        return ("RowSample", self.rows, self.axis, self.heads, self.seed)

    def observer(self) -> Observer | None:
        """Op ``SampleRows``."""
        return Observer("SampleRows", 1, {"rows": self.rows, "seed": self.seed}, self.axis, self.heads, rows=True)


class AttentionRows(Observed):
    """Base of statistics of evenly spread rows of attention weights [..., queries, keys]; partners come whole."""

    taken: int
    """Number of rows per sample."""
    seed: int

    def update(self, x: F32, *partners: F32) -> None:
        """Fold one sample's weights in, and the partners."""
        if x.size:
            self._add(x.reshape(-1, x.shape[-1])[self._chosen(x.shape)], x.shape, *partners)

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the rows from op ``SampleRows``."""
        if 0 not in shape:
            self._add(outputs[0], shape, *partners)

    def observer(self) -> Observer | None:
        """Op ``SampleRows``, and the partners whole."""
        return Observer("SampleRows", 1, {"rows": self.taken, "seed": self.seed}, -1, rows=True, partners=True)

    def _chosen(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Indices of the sampled rows for weights of this shape."""
        return spread_rows(math.prod(shape[:-1]), self.taken, self.seed)

    @abstractmethod
    def _add(self, rows: F32, shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the sampled rows of one sample; ``shape`` is that of all its weights."""


class Whole(Observed):
    """The last tensor seen, for constants."""

    def __init__(self) -> None:
        self.value: F32 = np.zeros(0, np.float32)

    def update(self, x: F32) -> None:
        """Store the tensor."""
        self.value = x

    def merge(self, other: Self) -> Self:
        """The other one, if it has seen any."""
        return other if other.value.size else self

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"value": self.value}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.value = arrays["value"]

    def kind(self) -> Hashable:
        """Type."""
        return "Whole"
