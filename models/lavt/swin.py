"""Swin's windows, blocks, patch embedding and merging, with all attention written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_windows(x: Tensor, w: int) -> Tensor:
    """[B, H, W, C] -> [B * nW, w * w, C]; H and W are multiples of w."""
    _, h, v, c = x.shape
    x = x.reshape(-1, h // w, w, v // w, w, c)
    return x.transpose(2, 3).reshape(-1, w * w, c)


def from_windows(x: Tensor, w: int, h: int, v: int) -> Tensor:
    """Inverse of `to_windows`."""
    x = x.reshape(-1, h // w, v // w, w, w, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, v, x.shape[-1])


def relative_index(w: int) -> Tensor:
    """Row of the relative-position table for every pair of positions of a w x w window."""
    pos = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij"), -1).reshape(-1, 2)
    delta = pos[:, None] - pos[None] + (w - 1)
    return delta[..., 0] * (2 * w - 1) + delta[..., 1]


def shift_mask(h: int, v: int, w: int) -> Tensor:
    """Additive mask [nW, w*w, w*w] that keeps tokens of different image parts apart after the cyclic shift."""
    label = torch.zeros(1, h, v, 1)
    for i, rows in enumerate((slice(-w, -(w // 2)), slice(-(w // 2), None)), 1):
        label[:, rows] += 3 * i
    for i, cols in enumerate((slice(-w, -(w // 2)), slice(-(w // 2), None)), 1):
        label[:, :, cols] += i
    label = to_windows(label, w).squeeze(-1)
    return (label[:, None] != label[:, :, None]).float() * -100.0


class WindowAttention(nn.Module):
    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        _, n, c = x.shape
        q, k, v = self.qkv(x).reshape(-1, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        index: Tensor = self.relative_position_index  # type: ignore[assignment]
        bias = self.relative_position_bias_table[index.reshape(-1)].reshape(n, n, self.heads).permute(2, 0, 1)
        if mask is None:
            attn = attn + bias
        else:
            windows = mask.shape[0]
            attn = attn.reshape(-1, windows, self.heads, n, n) + (bias + mask[:, None])
            attn = attn.reshape(-1, self.heads, n, n)
        attn = attn.softmax(-1)
        out: Tensor = self.proj((attn @ v).transpose(1, 2).reshape(-1, n, c))
        return out


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """One Swin block; `side` is the expected map size, whose shift mask is cached."""

    shift_mask: Tensor | None

    def __init__(
        self, dim: int, heads: int, window: int, shifted: bool, mlp_ratio: float, side: int, fit: bool
    ) -> None:
        super().__init__()
        window = min(window, side) if fit else window
        self.window, self.fit = window, fit
        self.shift = window // 2 if shifted else 0
        padded = -(-side // window) * window
        mask = shift_mask(padded, padded, window) if self._shifts(padded) else None
        self.register_buffer("shift_mask", mask, persistent=False)
        self.padded = padded
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def _shifts(self, padded: int) -> bool:
        """True if windows are shifted; a map of one window needs no shift, though the release shifts it too."""
        return self.shift > 0 and (padded > self.window or not self.fit)

    def forward(self, x: Tensor, h: int, v: int) -> Tensor:
        """x: [B, h * v, C]."""
        w, c = self.window, x.shape[-1]
        y = self.norm1(x).reshape(-1, h, v, c)
        pad_h, pad_v = -h % w, -v % w
        if pad_h or pad_v:
            y = F.pad(y, (0, 0, 0, pad_v, 0, pad_h))
        hp, vp = h + pad_h, v + pad_v
        shift = self.shift if self._shifts(max(hp, vp)) else 0
        mask: Tensor | None = None
        if shift:
            y = torch.roll(y, (-shift, -shift), (1, 2))
            mask = self.shift_mask if hp == vp == self.padded else shift_mask(hp, vp, w).to(x.device)
        y = from_windows(self.attn(to_windows(y, w), mask), w, hp, vp)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        if pad_h or pad_v:
            y = y[:, :h, :v]
        x = x + y.reshape(-1, h * v, c)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor, h: int, v: int) -> Tensor:
        c = x.shape[-1]
        x = x.reshape(-1, h, v, c)
        if h % 2 or v % 2:
            x = F.pad(x, (0, 0, 0, v % 2, 0, h % 2))
        quads = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = torch.cat(quads, -1).reshape(-1, ((h + 1) // 2) * ((v + 1) // 2), 4 * c)
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> tuple[Tensor, int, int]:
        h, v = int(image.shape[2]), int(image.shape[3])
        if h % self.patch or v % self.patch:
            image = F.pad(image, (0, -v % self.patch, 0, -h % self.patch))
        x = self.proj(image)
        h, v = -(-h // self.patch), -(-v // self.patch)
        return self.norm(x.flatten(2).transpose(1, 2)), h, v
