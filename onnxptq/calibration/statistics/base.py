"""What a statistic is: small, mergeable, checkpointable facts of a tensor; and what searches and passes may ask for."""

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
"""The axes that tell channels apart; None: one number for the whole tensor."""


class Statistic(Protocol):
    """A statistic that says how it merges. ``merge`` is associative; the property test says so for every one."""

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in. NotFinite where it holds NaN or infinity."""

    def merge(self, other: Self) -> Self:
        """The statistic of both."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state, for the checkpoint."""

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""


class NotFinite(ValueError):
    """A sample's tensor holds NaN or infinity. The engine says which."""


@dataclass(frozen=True)
class Observer:
    """The in-graph observer that computes one sample's share of a statistic, so that the tensor never leaves the
    runtime."""

    op: str
    """Op type in domain ``onnxptq.calib``."""
    outputs: int
    attributes: Mapping[str, int] = field(default_factory=dict)
    axis: Axes = None
    heads: int | None = None
    rows: bool = False
    """Whether the op reads a matrix whose columns are the channels (several axes are then brought together)."""
    partners: bool = False
    """Whether ``absorb`` also takes the request's partners, which are fetched whole."""


class Observed(ABC):
    """A Statistic the engine knows more about: equal requests are answered once, and in-graph observers may do the
    work."""

    row_by_row: ClassVar[bool] = False
    """Whether partners hold a row for each row of the tensor, so that padded tokens can be left out of them as well."""

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
        """The observer that can stand in for ``update``, if there is one."""
        return None

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the outputs of the observer for one sample's tensor of that shape."""
        raise NotImplementedError(f"{type(self).__name__} offers no observer")

    def parts(self) -> tuple[Observed, ...]:
        """The statistics it consists of, each filled on its own."""
        return (self,)


@dataclass(frozen=True)
class Request:
    """Fill ``statistic`` with ``tensor``; the name of a node stands for its constant operand (the weight of a linear).

    ``mask`` names a mask input whose zero tokens are left out along axis ``rows``; None: the engine finds out by
    itself.
    """

    tensor: str
    statistic: Statistic
    mask: str | None = None
    rows: int = -2
    partners: tuple[str, ...] = field(default=())
    """Further tensors handed to ``statistic.update`` together with the first (for errors measured on a site's output).

    All of them are whole then, unless the statistic takes them ``row_by_row``: tokens that pad are not left out, lest
    rows no longer belong together.
    """
    samples: int | None = None
    """Only the first so many samples are wanted: the walk stops there if nobody wants more."""


def arranged(x: F32, axis: Axes, heads: int | None) -> tuple[F32, tuple[int, ...]]:
    """``x`` in a shape where all axes but those that tell channels apart can be reduced, and these other axes.

    With ``heads``, axis -3 counts batch times heads, and its index modulo ``heads`` is the head.
    """
    if heads is not None and x.ndim >= 3 and x.shape[-3] != heads:
        x = x.reshape(*x.shape[:-3], x.shape[-3] // heads, heads, *x.shape[-2:])
    kept = () if axis is None else (axis,) if isinstance(axis, int) else axis
    positive = {a % x.ndim for a in kept}
    return x, tuple(a for a in range(x.ndim) if a not in positive)


class Several(Observed):
    """Some statistics of one tensor, asked for together so that one walk fills all."""

    def __init__(self, *members: Observed) -> None:
        self.members = members

    def update(self, x: F32) -> None:
        """Fold one sample's tensor into each."""
        for member in self.members:
            member.update(x)

    def merge(self, other: Self) -> Self:
        """Each with its fellow."""
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
        """Those of the members."""
        return tuple(part for member in self.members for part in member.parts())
