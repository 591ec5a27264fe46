"""Draw: which samples of a source are taken, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")
How = Literal["random", "first"]
DRAWS: tuple[How, ...] = get_args(How)


@dataclass(frozen=True)
class Draw:
    """At most ``limit`` items: drawn at random by a seed, as the papers do, or the ``first`` ones, as their code does.

    Without a limit all are taken, in their order.
    """

    limit: int | None = None
    how: How = "random"
    seed: int = 0

    def of(self, items: Sequence[T]) -> list[T]:
        """The items drawn, in the order of the draw."""
        if self.limit is None or self.how == "first":
            return [items[i] for i in range(len(items))[: self.limit]]
        return [items[int(i)] for i in np.random.RandomState(self.seed).permutation(len(items))[: self.limit]]
