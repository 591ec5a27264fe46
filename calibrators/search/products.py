"""Scales of both operands of a product, searched in turns by the error of its output (PTQ4ViT, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.calibrators.search.objectives import few_digits, uniform_codes
from onnxptq.ops import schemes
from onnxptq.ops.dual_region import DualRegionParams
from onnxptq.ops.scheme import Params
from onnxptq.ops.uniform import UniformParams

I64 = NDArray[np.int64]


class Tries(Protocol):
    """The candidates of one operand."""

    @property
    def count(self) -> int:
        """Number of candidates."""

    def coded(self, x: F32, index: I64) -> F32:
        """``x`` coded by candidate ``index``: one number, or one for each unit with codes of its own."""

    def tried(self, x: F32, index: int) -> F32:
        """The decoded values of ``x`` that the search assumes for candidate ``index``."""

    def params(self, index: I64) -> Params:
        """The parameters of a candidate."""


@dataclass(frozen=True)
class Ranges:
    """Uniform codes over shrunken ranges; ``low`` and ``high`` broadcast against the operand, one number for each
    unit."""

    low: F64
    high: F64
    bits: int
    signed: bool
    factors: Sequence[float]

    @property
    def count(self) -> int:
        """Number of factors."""
        return len(self.factors)

    def params(self, index: I64) -> UniformParams:
        """See Tries; index -1 is the whole range."""
        factor = np.append(np.asarray(self.factors, np.float64), 1.0)[index]
        return uniform_codes(self.low * factor, self.high * factor, self.bits, signed=self.signed)

    def coded(self, x: F32, index: I64) -> F32:
        """See Tries."""
        codes = self.params(index)
        lowest = -codes.zero.astype(np.float32)
        held = x / codes.scale
        np.rint(held, out=held)
        np.clip(held, lowest, lowest + np.float32(2**self.bits - 1), out=held)
        held *= codes.scale
        return held

    def tried(self, x: F32, index: int) -> F32:
        """See Tries."""
        return self.coded(x, np.array(index))


@dataclass(frozen=True)
class Regions:
    """Dual-region codes."""

    candidates: Sequence[DualRegionParams]
    whole: DualRegionParams
    """The codes of index -1: those before the search."""
    meaning: Callable[[F32, DualRegionParams], F32] | None = None
    """The decoded values that the search assumes; None: the true ones."""

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    def params(self, index: I64) -> DualRegionParams:
        """See Tries."""
        return self.candidates[int(index)] if index >= 0 else self.whole

    def coded(self, x: F32, index: I64) -> F32:
        """See Tries."""
        return schemes()["dual_region"].fake(x, self.params(index))

    def tried(self, x: F32, index: int) -> F32:
        """See Tries."""
        return self.meaning(x, self.candidates[index]) if self.meaning is not None else self.coded(x, np.array(index))


def published_sum(x: F32, p: DualRegionParams) -> F32:
    """x as decoded by PTQ4ViT's published code: the sum of both regions, the coarse one never below the split."""
    last, split = np.float32(2 ** (p.bits - 1) - 1), p.scale_low * np.float32(2 ** (p.bits - 1) - 1)
    high = np.rint(np.clip(x, split, 1) * last) / last
    return np.asarray(high + np.rint(np.clip(x, 0, split) / p.scale_low) * p.scale_low, np.float32)


@dataclass
class SearchedOperand:
    """One side of a product: its blocks [samples, heads, rows, columns] and candidates (None: it stays float)."""

    blocks: Sequence[F32]
    tries: Tries | None = None
    axis: int | None = None
    """Axis of the output with codes of its own for each index: 1 (heads) or 3 (columns); None: one code for all."""
    units: I64 | None = None
    """For axis 3, the unit of each column, where several columns share one."""
    index: I64 = field(default_factory=lambda: np.array(-1))
    sees_float: bool = False
    """True if it is searched with the other side in float."""

    def now(self) -> list[F32]:
        """The blocks under their present codes."""
        return [self.tries.coded(block, self.index) if self.tries is not None else block for block in self.blocks]

    def each(self, best: I64) -> I64:
        """The winner of each unit as an index that broadcasts against the blocks."""
        if self.axis is None:
            return best.reshape(())
        return best.reshape(-1, 1, 1) if self.axis == 1 else best if self.units is None else best[self.units]


@dataclass(frozen=True)
class SearchedProduct:
    """left @ right, with a weight for each element (None: all alike). A missing side makes the other one the output."""

    left: SearchedOperand | None
    right: SearchedOperand | None
    gradients: Sequence[F32] | None = None

    def search(self, order: Sequence[SearchedOperand], rounds: int) -> None:
        """Search the operands in this order until nothing changes, ``rounds`` times at most."""
        wanted = [self._times(a, b) for a, b in self._pairs(self._plain(self.left), self._plain(self.right))]
        weights = self._weights(wanted)
        for _ in range(rounds):
            before = [operand.index for operand in order]
            for operand in order:
                table = self.errors(operand, wanted, weights)
                operand.index = operand.each(table.argmin(axis=0))
            if all(np.array_equal(a, operand.index) for a, operand in zip(before, order, strict=True)):
                break

    def errors(self, operand: SearchedOperand, wanted: Sequence[F32], weights: Sequence[F32] | None) -> F64:
        """Error of each of the operand's candidates in each unit: the weighted squared error of the output, the other
        side unchanged."""
        assert operand.tries is not None
        mine = operand is self.left
        other = self.right if mine else self.left
        fixed = None if other is None else self._plain(other) if operand.sees_float else other.now()
        rows = []
        for number in range(operand.tries.count):
            tried = [operand.tries.tried(block, number) for block in operand.blocks]
            pairs = self._pairs(tried, fixed) if mine else self._pairs(fixed, tried)
            total: F64 | float = 0.0
            for place, (a, b) in enumerate(pairs):
                change = self._times(a, b) - wanted[place]
                if weights is not None:
                    change *= weights[place]
                np.square(change, out=change)
                total = total + change.sum(axis=tuple(n for n in range(4) if n != operand.axis), dtype=np.float64)
            rows.append(np.atleast_1d(total))
        table = np.stack(rows)
        if operand.units is not None:
            table = np.stack([np.bincount(operand.units, row) for row in table])
        return few_digits(table)

    def _weights(self, wanted: Sequence[F32]) -> Sequence[F32] | None:
        """The gradients, scaled so that no square underflows."""
        if self.gradients is None:
            return None
        largest = max((float(np.abs(g).max(initial=0)) for g in self.gradients), default=0.0)
        return (
            [np.broadcast_to(g / np.float32(largest), o.shape) for g, o in zip(self.gradients, wanted, strict=True)]
            if largest
            else None
        )

    @staticmethod
    def _plain(operand: SearchedOperand | None) -> Sequence[F32] | None:
        return None if operand is None else operand.blocks

    @staticmethod
    def _pairs(left: Sequence[F32] | None, right: Sequence[F32] | None) -> list[tuple[F32 | None, F32 | None]]:
        """Blocks of both sides, paired; a weight is one block, shared by all blocks of rows."""
        count = max(len(side) for side in (left, right) if side is not None)
        return [
            (left[n % len(left)] if left is not None else None, right[n % len(right)] if right is not None else None)
            for n in range(count)
        ]

    @staticmethod
    def _times(a: F32 | None, b: F32 | None) -> F32:
        product = np.asarray(b if a is None else a if b is None else a @ b)
        return product.reshape((1,) * (4 - product.ndim) + product.shape)
