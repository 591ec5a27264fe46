"""What searches and the engine know of gradients; whoever computes them (``onnxptq.learn.fisher``) is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxptq.calibration.summary import F32
from onnxptq.errors import InputError
from onnxptq.graph.model import Model

_PREFIX = "onnxptq.gradient:"
Take = Callable[[Mapping[str, NDArray[Any]], int], Mapping[str, F32]]
"""From a sample and its index to the gradient at each tensor, of that tensor's shape."""


class NoGradient(InputError):
    """No gradient reaches a tensor, or it is zero everywhere: as a weight of errors it would call every error nothing."""


class Gradients(Protocol):
    """A source of gradients of some loss."""

    def at(self, model: Model, tensors: Sequence[str]) -> Take:
        """What gives the gradients at these tensors of ``model`` as it is now."""


def gradient_of(tensor: str) -> str:
    """The name under which a request's ``partners`` ask for the gradient at ``tensor``."""
    return _PREFIX + tensor


def wanted_gradients(names: Sequence[str]) -> dict[str, str]:
    """Those of the names that ask for a gradient -> the tensor each is about."""
    return {name: name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)}
