"""Straight-through gradients: the value of a function with the gradient of its first argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Straight(torch.autograd.Function):
    """(x, y) -> y, exactly; the gradient goes to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """The value of y."""
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradient of x, as if y were x."""
        return gradients[0], None


def straight(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``call`` with the identity's gradient in its first argument, and no gradient in others."""

    def passed(x: Tensor, *others: Tensor | None) -> Tensor:
        with torch.no_grad():
            y = call(x, *others)
        return _Straight.apply(x, y) if x.is_floating_point() else y  # type: ignore[no-untyped-call]

    return passed
