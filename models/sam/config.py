"""Sizes of a Segment Anything model, named ones and those read off a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from onnxptq.errors import InputError


@dataclass(frozen=True)
class SamConfig:
    """All sizes that `build` needs; the defaults are ViT-B's."""

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_attention: tuple[int, ...] = (2, 5, 8, 11)
    prompt_dim: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_hidden: int = 256

    @property
    def grid(self) -> int:
        """Side of the embedding map."""
        return self.image_size // self.patch_size

    def at(self, image_size: int | None) -> SamConfig:
        """The same model for another image size."""
        if image_size is None or image_size == self.image_size:
            return self
        if image_size < 2 * self.patch_size or image_size % self.patch_size:
            raise InputError(
                f"image size {image_size}: give a multiple of the patch size {self.patch_size}, at least "
                f"{2 * self.patch_size}"
            )
        return replace(self, image_size=image_size)


PRESETS: dict[str, SamConfig] = {
    "vit_b": SamConfig(),
    "vit_l": SamConfig(embed_dim=1024, depth=24, heads=16, global_attention=(5, 11, 17, 23)),
    "vit_h": SamConfig(embed_dim=1280, depth=32, heads=16, global_attention=(7, 15, 23, 31)),
}
"""The three released sizes."""


def preset(name: str) -> SamConfig:
    """A released size by name."""
    if name not in PRESETS:
        raise InputError(f"model '{name}': choose {', '.join(PRESETS)}")
    return PRESETS[name]


def infer(state: Mapping[str, Tensor], name: str = "state dict") -> SamConfig:
    """The sizes of the model with this state dict (decoder heads do not show in it: 8, as in every release)."""
    try:
        embed_dim, _, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
        depth = _count(state, "image_encoder.blocks")
        layers = _count(state, "mask_decoder.transformer.layers")
        spans = [(state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] + 1) // 2 for i in range(depth)]
        head = state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
        prompt_dim = state["prompt_encoder.no_mask_embed.weight"].shape[1]
        mlp = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
        hidden = state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]
        grid = state["image_encoder.pos_embed"].shape[1]
    except KeyError as error:
        raise InputError(f"{name}: not a Segment Anything checkpoint, parameter {error} is missing") from None
    window = next((span for span in spans if span != grid), 0)
    return SamConfig(
        image_size=grid * patch,
        patch_size=patch,
        embed_dim=embed_dim,
        depth=depth,
        heads=embed_dim // head,
        window=window,
        global_attention=tuple(i for i, span in enumerate(spans) if span == grid),
        prompt_dim=prompt_dim,
        decoder_depth=layers,
        decoder_mlp=mlp,
        iou_hidden=hidden,
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    found = [int(match[1]) for key in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))]
    if not found:
        raise KeyError(f"{prefix}.0")
    return 1 + max(found)
