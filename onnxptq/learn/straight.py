"""Straight-through gradients: the value of a function, the gradient of its first argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Straight(torch.autograd.Function):
    """(x, y) -> y, exactly, with the gradient going to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """The value of y."""
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """As if y were x."""
        return gradients[0], None


def straight(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``call`` with the gradient of the identity in its first argument, and none in others."""

    def passed(x: Tensor, *others: Tensor | None) -> Tensor:
        with torch.no_grad():
            y = call(x, *others)
        return _Straight.apply(x, y) if x.is_floating_point() else y  # type: ignore[no-untyped-call]

    return passed
