"""The four stages, each ending in language fusion, and their feature maps."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.lavt.fusion import PWAM
from onnxptq.models.lavt.swin import PatchEmbed, PatchMerging, SwinBlock


class Stage(nn.Module):
    def __init__(self, cfg: LavtConfig, i: int, text_dim: int) -> None:
        super().__init__()
        dim, side = cfg.embed_dim << i, -(-cfg.image_size // (4 << i))
        self.blocks = nn.ModuleList(
            SwinBlock(dim, cfg.num_heads[i], cfg.window, j % 2 == 1, cfg.mlp_ratio[i], side, cfg.fit_windows)
            for j in range(cfg.depths[i])
        )
        self.fusion = PWAM(dim, text_dim, cfg.fusion_heads[i])
        self.res_gate = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False), nn.Tanh()
        )
        self.downsample = PatchMerging(dim) if i < len(cfg.depths) - 1 else None

    def look(self, x: Tensor, h: int, v: int) -> Tensor:
        """The visual half: the Swin blocks."""
        for block in self.blocks:
            x = block(x, h, v)
        return x

    def fuse(self, x: Tensor, h: int, v: int, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor, int, int]:
        """The language half: fused features of this stage; input and size of the next stage."""
        fused = self.fusion(x, words, word_mask)
        x = x + self.res_gate(fused) * fused
        if self.downsample is None:
            return fused, x, h, v
        return fused, self.downsample(x, h, v), (h + 1) // 2, (v + 1) // 2

    def forward(self, x: Tensor, h: int, v: int, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor, int, int]:
        return self.fuse(self.look(x, h, v), h, v, words, word_mask)


class Backbone(nn.Module):
    def __init__(self, cfg: LavtConfig, text_dim: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(cfg.embed_dim)
        if cfg.absolute_pos:
            side = cfg.image_size // 4
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, cfg.embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.layers = nn.ModuleList(Stage(cfg, i, text_dim) for i in range(len(cfg.depths)))
        for i in range(len(cfg.depths)):
            self.add_module(f"norm{i}", nn.LayerNorm(cfg.embed_dim << i))
        self.apply(self._init)

    @staticmethod
    def _init(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

    @property
    def stages(self) -> list[Stage]:
        """The stages in order."""
        return cast(list[Stage], list(self.layers))

    def embed(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Patch tokens [B, h * v, C] with their position, and the map size."""
        x, h, v = self.patch_embed(image)
        if hasattr(self, "absolute_pos_embed"):
            pos: Tensor = self.absolute_pos_embed
            if tuple(pos.shape[2:]) != (h, v):
                pos = F.interpolate(pos, (h, v), mode="bicubic")
            x = x + pos.flatten(2).transpose(1, 2)
        return x, h, v

    def to_map(self, i: int, fused: Tensor, h: int, v: int) -> Tensor:
        """Normalised stage output as an image-like map."""
        fused = getattr(self, f"norm{i}")(fused)
        return fused.transpose(1, 2).reshape(-1, fused.shape[-1], h, v)

    def forward(self, image: Tensor, words: Tensor, word_mask: Tensor) -> list[Tensor]:
        x, h, v = self.embed(image)
        maps = []
        for i, stage in enumerate(self.stages):
            size = (h, v)
            fused, x, h, v = stage(x, h, v, words, word_mask)
            maps.append(self.to_map(i, fused, *size))
        return maps
