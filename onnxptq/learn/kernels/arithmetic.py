"""Elementwise arithmetic."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from onnxptq.learn.tensors import convert

Abs, Neg, Sign, Sqrt, Exp, Log, Reciprocal = (
    torch.abs,
    torch.neg,
    torch.sign,
    torch.sqrt,
    torch.exp,
    torch.log,
    torch.reciprocal,
)
Floor, Ceil, Round = torch.floor, torch.ceil, torch.round
Sin, Cos, Tanh, Erf = torch.sin, torch.cos, torch.tanh, torch.erf
Add, Sub, Mul = torch.add, torch.sub, torch.mul


def Div(x: Tensor, y: Tensor) -> Tensor:
    """Integer division truncates towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def Mod(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    """The remainder has the sign of the divisor, or with ``fmod`` of the dividend."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def Pow(x: Tensor, y: Tensor) -> Tensor:
    """Power; the result has the base's type."""
    return torch.pow(x, y).to(x.dtype)


def Sum(*terms: Tensor) -> Tensor:
    """Sum of any number of tensors."""
    return reduce(torch.add, terms)


def Mean(*terms: Tensor) -> Tensor:
    """Mean of any number of tensors."""
    return reduce(torch.add, terms) / len(terms)


def Min(*terms: Tensor) -> Tensor:
    """Minimum of any number of tensors."""
    return reduce(torch.minimum, terms)


def Max(*terms: Tensor) -> Tensor:
    """Maximum of any number of tensors."""
    return reduce(torch.maximum, terms)


def Clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip to [low, high]; the gradient is zero outside."""
    return x if low is None and high is None else torch.clamp(x, low, high)


def Cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    """Convert to another element type (``saturate`` concerns 8-bit floats, which are not supported)."""
    return convert(x, to)


def CastLike(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    """Convert to the element type of ``like``."""
    return x.to(like.dtype)
