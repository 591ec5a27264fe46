"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Relu, Sigmoid = torch.relu, torch.sigmoid


def Gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """By erf, or by tanh."""
    return functional.gelu(x, approximate=approximate)


def LeakyRelu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """alpha x below zero."""
    return functional.leaky_relu(x, alpha)


def Elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """alpha (e^x - 1) below zero."""
    return functional.elu(x, alpha)


def Softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return torch.logaddexp(x, torch.zeros_like(x))


def HardSigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha x + beta, in [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


def HardSwish(x: Tensor) -> Tensor:
    """x times its hard sigmoid of slope 1/6."""
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def Softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Along one axis."""
    return torch.softmax(x, axis)


def LogSoftmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Along one axis."""
    return torch.log_softmax(x, axis)
