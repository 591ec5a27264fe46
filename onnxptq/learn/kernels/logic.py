"""Comparisons and choices."""

from __future__ import annotations

import torch
from torch import Tensor

Equal, Greater, GreaterOrEqual, Less, LessOrEqual = torch.eq, torch.gt, torch.ge, torch.lt, torch.le
And, Or, Xor, Not = torch.logical_and, torch.logical_or, torch.logical_xor, torch.logical_not
IsNaN, Where = torch.isnan, torch.where


def IsInf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether numbers are infinite."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found
