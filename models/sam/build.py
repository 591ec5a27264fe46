"""Segment Anything models from a checkpoint, or with random weights of plausible size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxptq.errors import InputError
from onnxptq.models.sam.config import PRESETS, SamConfig, infer
from onnxptq.models.sam.package import modeling
from onnxptq.models.state import read, weights

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def build(config: SamConfig) -> nn.Module:
    """segment_anything's `Sam` of any size, weights as torch initialises them."""
    parts = modeling()
    grid = config.grid
    sam = parts.Sam(
        image_encoder=parts.ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=4,
            out_chans=config.prompt_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window,
            global_attn_indexes=config.global_attention,
        ),
        prompt_encoder=parts.PromptEncoder(
            embed_dim=config.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size,) * 2,
            mask_in_chans=16,
        ),
        mask_decoder=parts.MaskDecoder(
            num_multimask_outputs=3,
            transformer=parts.TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_dim,
                mlp_dim=config.decoder_mlp,
                num_heads=config.decoder_heads,
            ),
            transformer_dim=config.prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=config.iou_hidden,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    return cast(nn.Module, sam.eval())


def random_sam(config: SamConfig, seed: int = 0) -> nn.Module:
    """A model with seeded random weights, position tables included: for timing without a checkpoint.

    The package leaves position tables at zero, which would hide the cost and the error of relative position.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build(config)
        with torch.no_grad():
            for name, parameter in sam.named_parameters():
                if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
                    parameter.normal_(0.0, 0.02)
    return sam


def load_sam(checkpoint: str | Path, *, model: str | None = None, image_size: int | None = None) -> nn.Module:
    """The model of a checkpoint file, all sizes read off it; another image size resamples its position tables.

    ``model`` (vit_b, vit_l, vit_h) is only compared with what the file holds.
    """
    state = weights(read(checkpoint))
    stored = infer(state, str(checkpoint))
    found = next((name for name, known in PRESETS.items() if known == stored.at(known.image_size)), "of another size")
    if model is not None and model in PRESETS and model != found:
        raise InputError(f"checkpoint {checkpoint} is {found}, not {model}: drop --model or give the matching file")
    config = stored.at(image_size)
    sam = build(config)
    try:
        sam.load_state_dict(_resampled(state, stored, config), strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(
            f"checkpoint {checkpoint} does not fit a Segment Anything model of its sizes: {first}"
        ) from None
    return sam


def _resampled(state: Mapping[str, Tensor], stored: SamConfig, config: SamConfig) -> dict[str, Tensor]:
    """Position tables of the stored image size for another one, as segment_anything and detectron2 resample them."""
    out = dict(state)
    if stored.grid == config.grid:
        return out
    table = state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    table = F.interpolate(table, (config.grid, config.grid), mode="bicubic", align_corners=False)
    out["image_encoder.pos_embed"] = table.permute(0, 2, 3, 1).contiguous()
    for block in config.global_attention:
        for axis in ("h", "w"):
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            rows = F.interpolate(state[name].T[None], 2 * config.grid - 1, mode="linear")[0].T
            out[name] = rows.contiguous()
    return out
