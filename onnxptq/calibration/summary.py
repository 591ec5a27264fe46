"""Summaries: small, mergeable, checkpointable statistics of a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Summary(Protocol):
    """A statistic that says how it merges. ``merge`` is associative; the property test says so for every one."""

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""

    def merge(self, other: Self) -> Self:
        """The summary of both."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state, for the checkpoint."""

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""


@dataclass(frozen=True)
class Request:
    """Fill ``summary`` with ``tensor``. ``mask`` names a mask input whose zero tokens are left out along axis ``rows``."""

    tensor: str
    summary: Summary
    mask: str | None = None
    rows: int = -2
    partners: tuple[str, ...] = field(default=())
    """Further tensors handed to ``summary.update`` together with the first (for errors measured on a site's output)."""
