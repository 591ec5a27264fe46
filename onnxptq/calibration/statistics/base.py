"""The Statistic interface: small, mergeable facts of a tensor; and the requests of searches and passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Axes = int | tuple[int, ...] | None
"""The axes that index channels; None: one number for the whole tensor."""


class Statistic(Protocol):
    """A mergeable statistic. ``merge`` is associative; a property test checks every statistic."""

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in; NotFinite if it holds NaN or infinity."""

    def merge(self, other: Self) -> Self:
        """The statistic of both."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state, for the checkpoint."""

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""


class NotFinite(ValueError):
    """A sample's tensor holds NaN or infinity. The engine names both."""


@dataclass(frozen=True)
class Observer:
    """The in-graph observer that computes one sample's share of a statistic; the tensor stays inside the runtime."""

    op: str
    """Op type in domain ``onnxptq.calib``."""
    outputs: int
    attributes: Mapping[str, int] = field(default_factory=dict)
    axis: Axes = None
    heads: int | None = None
    rows: bool = False
    """Whether the op reads a matrix whose columns are the channels (several axes are then merged)."""
    partners: bool = False
    """Whether ``absorb`` also takes the request's partners, which are fetched whole."""


class Observed(ABC):
    """A Statistic that can be shared by equal requests and computed by in-graph observers."""

    row_by_row: ClassVar[bool] = False
    """Whether partners have one row per row of the tensor, so that padded tokens can be removed from both."""

    @abstractmethod
    def update(self, x: F32) -> None:
        """See Statistic."""

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """See Statistic."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """See Statistic."""

    @abstractmethod
    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """See Statistic."""

    @abstractmethod
    def kind(self) -> Hashable:
        """Equal for two statistics that become equal when they see the same tensors."""

    def observer(self) -> Observer | None:
        """The observer that can replace ``update``, if there is one."""
        return None

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the observer's outputs for one sample's tensor of this shape."""
        raise NotImplementedError(f"{type(self).__name__} offers no observer")

    def parts(self) -> tuple[Observed, ...]:
        """The statistics it consists of, each filled independently."""
        return (self,)


@dataclass(frozen=True)
class Request:
    """Fill ``statistic`` with ``tensor``; a node's name stands for its constant operand (a linear's weight).

    ``mask`` names a mask input; its zero tokens are left out along axis ``rows``. With None the engine finds both.
    """

    tensor: str
    statistic: Statistic
    mask: str | None = None
    rows: int = -2
    partners: tuple[str, ...] = field(default=())
    """Further tensors for ``statistic.update`` besides the first (for errors measured on a site's output).

    All of them are whole then, unless the statistic takes them ``row_by_row``: padded tokens stay in, so that
    rows still correspond.
    """
    samples: int | None = None
    """Number of first samples wanted: the walk stops there if no other request needs more."""


def arranged(x: F32, axis: Axes, heads: int | None) -> tuple[F32, tuple[int, ...]]:
    """``x`` reshaped so that all axes except the channel axes can be reduced, and these other axes.

    With ``heads``, axis -3 counts batch times heads, and its index modulo ``heads`` is the head.
    """
    if heads is not None and x.ndim >= 3 and x.shape[-3] != heads:
        x = x.reshape(*x.shape[:-3], x.shape[-3] // heads, heads, *x.shape[-2:])
    kept = () if axis is None else (axis,) if isinstance(axis, int) else axis
    positive = {a % x.ndim for a in kept}
    return x, tuple(a for a in range(x.ndim) if a not in positive)


class Several(Observed):
    """Several statistics of one tensor, requested together so that one walk fills all."""

    def __init__(self, *members: Observed) -> None:
        self.members = members

    def update(self, x: F32) -> None:
        """Fold one sample's tensor into each."""
        for member in self.members:
            member.update(x)

    def merge(self, other: Self) -> Self:
        """Merge each with its counterpart."""
        return type(self)(*(a.merge(b) for a, b in zip(self.members, other.members, strict=True)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The states of all."""
        return {f"{i}.{k}": v for i, member in enumerate(self.members) for k, v in member.arrays().items()}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        for i, member in enumerate(self.members):
            member.load({k.removeprefix(f"{i}."): v for k, v in arrays.items() if k.startswith(f"{i}.")})

    def kind(self) -> Hashable:
        """The kinds of all."""
        return ("Several", *(member.kind() for member in self.members))

    def parts(self) -> tuple[Observed, ...]:
        """The parts of all members."""
        return tuple(part for member in self.members for part in member.parts())
