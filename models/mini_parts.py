"""Modules defined only for the mini models: a convolutional net, and wrappers that return plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions with BatchNormalization around a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Post-activation, as in the first residual networks."""
        y = torch.relu(self.bn1(self.conv1(x)))
        out: Tensor = torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return out


class ConvNet(nn.Module):
    """Residual blocks, a depthwise convolution, a transposed one, pooling and a linear head: image -> logits [B,
    10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block1 = Residual(16, 16, 1)
        self.block2 = Residual(16, 32, 2)
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 24, 2, 2), nn.BatchNorm2d(24), nn.GELU())
        self.head = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Global average pooling before the head."""
        x = self.up(self.depthwise(self.block2(self.block1(self.stem(image)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class TextHidden(nn.Module):
    """A text encoder's last hidden state from ids and a 0/1 mask."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The additive mask is made here: transformers' own maker depends on the exporter."""
        additive = (attention_mask[:, None, None, :].to(torch.float32) - 1.0) * 10000.0
        hidden: Tensor = self.encoder(
            input_ids=input_ids, attention_mask=additive, token_type_ids=torch.zeros_like(input_ids)
        )[0]
        return hidden


class Hidden(nn.Module):
    """An image encoder's last hidden state."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, n, C]."""
        hidden: Tensor = self.encoder(pixel_values=image)[0]
        return hidden
