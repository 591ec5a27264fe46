"""Learned rounding: each weight goes down or up by a rectified sigmoid that a regulariser drives to 0 or 1."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOW, HIGH = -0.1, 1.1
"""Ends of the sigmoid before it is cut to 0 .. 1, so that both are reached."""
WARM_UP = 0.2
"""Share of the iterations without regulariser."""
BETA = (20.0, 2.0)
"""Exponent of the regulariser at the end of the warm-up and at the end."""


def rectified(alpha: Tensor) -> Tensor:
    """h = clip((HIGH - LOW) * sigmoid(alpha) + LOW, 0, 1)."""
    return (torch.sigmoid(alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


def inverse(h: Tensor) -> Tensor:
    """The alpha with ``rectified(alpha) == h``, for h in [0, 1]."""
    share = (h - LOW) / (HIGH - LOW)
    return torch.log(share / (1 - share))


def beta(iteration: int, iterations: int) -> float | None:
    """The exponent at an iteration: None during the warm-up, then from 20 to 2 in a straight line."""
    start = WARM_UP * iterations
    if iteration < start:
        return None
    return BETA[1] + (BETA[0] - BETA[1]) * max(0.0, 1 - (iteration - start) / (iterations - start))


def regulariser(alpha: Tensor, exponent: float) -> Tensor:
    """Sum of 1 - |2 h - 1| ** exponent: 0 where every h is 0 or 1."""
    return (1 - (2 * rectified(alpha) - 1).abs().pow(exponent)).sum()


class Rounding:
    """One weight on a fixed grid, (code - zero) * scale, whose codes are floor(w / scale) + zero plus 0 or 1."""

    def __init__(
        self,
        weight: NDArray[np.float32],
        scale: NDArray[np.float32],
        zero: NDArray[np.uint8],
        bits: int,
        device: torch.device,
    ) -> None:
        self.scale = torch.from_numpy(np.array(scale, np.float32)).to(device)
        self.zero = torch.from_numpy(np.array(zero, np.float32)).to(device)
        self.top = float(2**bits - 1)
        ratio = torch.from_numpy(np.array(weight, np.float32)).to(device) / self.scale
        self.floor = ratio.floor()
        self.alpha = inverse((ratio - self.floor).clamp(0, 1)).requires_grad_()

    def soft(self) -> Tensor:
        """Values with fractional rounding: what is learned."""
        return self._values(rectified(self.alpha))

    def hard(self) -> Tensor:
        """Values on the grid: alpha >= 0 rounds up."""
        return self._values((self.alpha >= 0).to(self.floor.dtype)).detach()

    def _values(self, up: Tensor) -> Tensor:
        return ((self.floor + up + self.zero).clamp(0, self.top) - self.zero) * self.scale
