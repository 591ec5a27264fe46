"""Normalisations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from onnxptq.errors import InputError


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Parameters per channel (axis 1) in a shape that broadcasts against ``x``."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def BatchNormalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """Normalise by fixed statistics of the channels."""
    if training_mode:
        raise InputError("torch executor: BatchNormalization in training mode is not supported")
    factor = scale * torch.rsqrt(variance + epsilon)
    return x * _by_channel(factor, x) + _by_channel(bias - mean * factor, x)


def InstanceNormalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def GroupNormalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Normalise groups of channels of each sample."""
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


def LayerNormalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Normalise over the axes from ``axis`` on; also return means and inverse deviations if asked for."""
    axes = list(range(axis % x.ndim, x.ndim))
    y = functional.layer_norm(x, x.shape[axes[0] :], eps=epsilon) * scale
    y = y if bias is None else y + bias
    if outputs == 1:
        return (y,)
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (y, mean, torch.rsqrt(variance + epsilon))[:outputs]


def RMSNormalization(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    """Divide by the root of the mean square over the axes from ``axis`` on."""
    return x * torch.rsqrt(x.square().mean(list(range(axis % x.ndim, x.ndim)), keepdim=True) + epsilon) * scale


def LpNormalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the norm along an axis; zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def GlobalAveragePool(x: Tensor) -> Tensor:
    """Mean over space."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)
