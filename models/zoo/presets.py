"""Sizes of the zoo models: 128 pixels (made for training on a CPU) and 256 pixels (for a GPU)."""

from __future__ import annotations

from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.sam.config import SamConfig


def sam_mini(image_size: int = 128) -> SamConfig:
    """Six or eight blocks, every third or fourth global."""
    if image_size > 128:
        return SamConfig(
            image_size=image_size,
            patch_size=8,
            embed_dim=192,
            depth=8,
            heads=6,
            window=8,
            global_attention=(3, 7),
            decoder_mlp=1024,
        )
    return SamConfig(
        image_size=image_size,
        patch_size=8,
        embed_dim=192,
        depth=6,
        heads=6,
        window=8,
        global_attention=(2, 5),
        prompt_dim=128,
        decoder_mlp=512,
        iou_hidden=128,
    )


def lavt_mini(image_size: int = 128, vocab_size: int = 30522, positions: int = 512) -> LavtConfig:
    """Four Swin stages and three MiniLM layers."""
    wide = image_size > 128
    return LavtConfig(
        image_size=image_size,
        embed_dim=48 if wide else 32,
        depths=(2, 2, 4, 2),
        num_heads=(2, 4, 8, 16) if wide else (1, 2, 4, 8),
        window=8,
        mlp_ratio=(4.0, 4.0, 4.0, 2.0),
        fit_windows=True,
        absolute_pos=True,
        decoder_width=96 if wide else 48,
        text={
            "vocab_size": vocab_size,
            "hidden_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "max_position_embeddings": positions,
        },
    )
