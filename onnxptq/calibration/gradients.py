"""Gradients as partners of requests: searches ask for them, a provider computes them for the engine.

The provider of ``onnxptq.learn.fisher`` is passed in, since it needs torch and nothing here does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32
from onnxptq.errors import InputError
from onnxptq.graph.model import Model

_PREFIX = "onnxptq.gradient:"
Sample = Mapping[str, NDArray[Any]]
Take = Callable[[Sample, int], Mapping[str, F32]]
"""From a sample and its number to the gradient at each tensor, of that tensor's shape."""


class NoGradient(InputError):
    """A tensor has no gradient, or one of zeros, which would give every error a weight of zero."""


class Gradients(Protocol):
    """A source of gradients of some loss."""

    def at(self, model: Model, tensors: Sequence[str]) -> Take:
        """A function that computes the gradients at these tensors of ``model`` in its current state."""


def gradient_of(tensor: str) -> str:
    """The name by which ``partners`` of a request refer to the gradient at ``tensor``."""
    return _PREFIX + tensor


def is_gradient(name: str) -> bool:
    """Whether a name refers to a gradient."""
    return name.startswith(_PREFIX)


def subject(name: str) -> str:
    """The tensor of a name: the named one, or the one whose gradient is named."""
    return name.removeprefix(_PREFIX)


class Weights:
    """The gradients that some names refer to, sample by sample."""

    def __init__(self, source: Gradients | None, model: Model | None, names: Iterable[str]) -> None:
        """``model`` is needed if some of the names are gradients."""
        self._names = {subject(name): name for name in names if is_gradient(name)}
        if self._names and source is None:
            raise InputError(
                f"gradients are wanted at tensor {min(self._names)!r}, but nothing computes them here; "
                "install torch (extra [learn]), or choose a metric without them"
            )
        self._take: Take | None = None
        if source is not None and model is not None and self._names:
            self._take = source.at(model, tuple(self._names))

    def __call__(self, sample: Sample, index: int) -> dict[str, F32]:
        """The gradients on one sample, by the names that refer to them."""
        found = self._take(sample, index) if self._take is not None else {}
        return {self._names[tensor]: gradient for tensor, gradient in found.items()}


def require_live(names: Iterable[str], live: Collection[str]) -> None:
    """Raise NoGradient where one of ``names`` is a gradient that no sample has ``live``, which is other than zero."""
    zero = [subject(name) for name in names if is_gradient(name) and name not in live]
    if zero:
        raise NoGradient(
            f"the gradient at tensor {min(zero)!r} is zero on every sample; choose a metric without gradients there"
        )
