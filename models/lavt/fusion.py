"""Pixel-word attention: fuses the sentence into a stage of the backbone."""

from __future__ import annotations

from torch import Tensor, nn


class PixelWordAttention(nn.Module):
    """Every pixel gathers its relevant words (queries: pixels; keys and values: words)."""

    def __init__(self, dim: int, text_dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim**-0.5
        self.f_key = nn.Sequential(nn.Conv1d(text_dim, dim, 1))
        self.f_query = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.InstanceNorm1d(dim))
        self.f_value = nn.Sequential(nn.Conv1d(text_dim, dim, 1))
        self.W = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.InstanceNorm1d(dim))

    def forward(self, x: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """x: [B, C, HW]; words: [B, text_dim, N]; word_mask: [B, 1, N] of 0/1 -> [B, C, HW]."""
        _, c, pixels = x.shape
        n = words.shape[-1]
        query = self.f_query(x).reshape(-1, self.heads, c // self.heads, pixels).transpose(2, 3)
        key = (self.f_key(words) * word_mask).reshape(-1, self.heads, c // self.heads, n)
        value = (self.f_value(words) * word_mask).reshape(-1, self.heads, c // self.heads, n)
        scores = (query @ key) * self.scale + (word_mask[:, None] - 1.0) * 1e4
        gathered = scores.softmax(-1) @ value.transpose(2, 3)  # [B, heads, HW, C / heads]
        out: Tensor = self.W(gathered.transpose(2, 3).reshape(-1, c, pixels))
        return out


class PWAM(nn.Module):
    """Pixel-word attention, multiplied into the projected visual features."""

    def __init__(self, dim: int, text_dim: int, heads: int) -> None:
        super().__init__()
        self.vis_project = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.GELU(), nn.Dropout(0.0))
        self.image_lang_att = PixelWordAttention(dim, text_dim, heads)
        self.project_mm = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.GELU(), nn.Dropout(0.0))

    def forward(self, x: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        fused = self.vis_project(x) * self.image_lang_att(x, words, word_mask)
        out: Tensor = self.project_mm(fused).transpose(1, 2)
        return out
