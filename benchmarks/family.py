"""Small models of today with random weights, from the configurations of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as t

EAGER: dict[str, Any] = {"attn_implementation": "eager"}
VIT: dict[str, Any] = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 128} | EAGER
WIDE: dict[str, Any] = {**VIT, "intermediate_size": 192, "patch_size": 16}
TEXT: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN: dict[str, Any] = {"image_size": 128, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]} | EAGER
HIERA: dict[str, Any] = {
    "image_size": [128, 128],
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
} | EAGER
LAST = "last_hidden_state"
IMAGE, WORDS = ("pixel_values",), ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Model:
    """How to make one, what goes in, and the field of its output that is compared."""

    build: Callable[[], Any]
    inputs: tuple[str, ...] = IMAGE
    output: str = LAST


def _sam_vision() -> Any:
    sizes = {"num_hidden_layers": 3, "global_attn_indexes": [2], "window_size": 5, "output_channels": 32}
    return t.SamVisionModel(t.SamVisionConfig(**{**WIDE, **sizes, "mlp_dim": 192}))


def _sam_hq_vision() -> Any:
    sizes = {"num_hidden_layers": 3, "global_attn_indexes": [2], "window_size": 5, "output_channels": 32}
    return t.SamHQVisionModel(t.SamHQVisionConfig(**{**WIDE, **sizes, "mlp_dim": 192}))


def _sam2_vision() -> Any:
    trunk = t.Sam2HieraDetConfig(
        hidden_size=24,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[24, 48, 96, 192],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
        **EAGER,
    )
    sizes = {"backbone_channel_list": [192, 96, 48, 24], "fpn_hidden_size": 64}
    return t.Sam2VisionModel(
        t.Sam2VisionConfig(backbone_config=trunk, backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]], **sizes, **EAGER)
    )


def _sam3_vit() -> Any:
    return t.Sam3ViTModel(
        t.Sam3ViTConfig(
            **WIDE, window_size=4, global_attn_indexes=[3], pretrain_image_size=64, layer_scale_init_value=None
        )
    )


def _dinov2_of(size: int = 96) -> Any:
    return t.Dinov2Config(
        **{**VIT, "hidden_size": size}, patch_size=16, out_features=STAGES, reshape_hidden_states=False
    )


def _depth_anything() -> Any:
    sizes = {"reassemble_hidden_size": 96, "neck_hidden_sizes": [16, 32, 64, 96], "fusion_hidden_size": 32}
    return t.DepthAnythingForDepthEstimation(
        t.DepthAnythingConfig(backbone_config=_dinov2_of(), patch_size=16, head_hidden_size=16, **sizes)
    )


def _dpt() -> Any:
    sizes = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16, "num_labels": 3}
    return t.DPTForSemanticSegmentation(t.DPTConfig(**WIDE, backbone_out_indices=[0, 1, 2, 3], **sizes))


def _clipseg() -> Any:
    text = {**TEXT, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 0}
    decoder = {"extract_layers": [1, 2, 3], "reduce_dim": 32, "decoder_num_attention_heads": 4}
    return t.CLIPSegForImageSegmentation(
        t.CLIPSegConfig(
            text_config=text, vision_config=WIDE, projection_dim=32, decoder_intermediate_size=64, **decoder, **EAGER
        )
    )


def _upernet() -> Any:
    sizes = {"hidden_size": 32, "num_labels": 3, "pool_scales": [1, 2], "use_auxiliary_head": False}
    return t.UperNetForSemanticSegmentation(
        t.UperNetConfig(backbone_config=t.SwinConfig(out_features=STAGES, window_size=4, **SWIN), **sizes)
    )


def _masks(kind: str) -> Any:
    backbone = t.SwinConfig(out_features=STAGES, window_size=4, **SWIN)
    if kind == "maskformer":
        decoder = t.DetrConfig(
            d_model=64, decoder_layers=2, encoder_layers=2, num_queries=12, decoder_ffn_dim=128, **EAGER
        )
        sizes = {"fpn_feature_size": 64, "mask_feature_size": 64}
        return t.MaskFormerForInstanceSegmentation(
            t.MaskFormerConfig(backbone_config=backbone, decoder_config=decoder, **sizes, **EAGER)
        )
    return t.Mask2FormerForUniversalSegmentation(
        t.Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=64,
            mask_feature_size=64,
            hidden_dim=64,
            encoder_feedforward_dim=128,
            dim_feedforward=128,
            encoder_layers=2,
            decoder_layers=3,
            num_attention_heads=4,
            num_queries=12,
            **EAGER,
        )
    )


def _pvt() -> Any:
    sizes = {"hidden_sizes": [16, 32, 48, 96], "depths": [1] * 4, "num_attention_heads": [1, 2, 4, 4]}
    return t.PvtV2Model(t.PvtV2Config(image_size=128, mlp_ratios=[2] * 4, **sizes))


def _vitdet() -> Any:
    return t.VitDetModel(
        t.VitDetConfig(
            **VIT, patch_size=16, window_size=4, window_block_indices=[0, 2], use_relative_position_embeddings=True
        )
    )


def _eomt() -> Any:
    return t.EomtForUniversalSegmentation(
        t.EomtConfig(**WIDE, num_blocks=2, num_queries=12, num_register_tokens=2, num_upscale_blocks=1)
    )


def _groupvit() -> Any:
    sizes = {"depths": [2, 2, 2], "num_group_tokens": [16, 4, 0], "num_output_groups": [16, 4, 0]}
    return t.GroupViTVisionModel(t.GroupViTVisionConfig(**WIDE, **sizes))


def _convnext(kind: str) -> Any:
    sizes = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 3, 1]}
    if kind == "v2":
        return t.ConvNextV2Model(t.ConvNextV2Config(**sizes))
    return t.ConvNextModel(t.ConvNextConfig(layer_scale_init_value=0.5, **sizes))


def _segformer() -> Any:
    sizes = {"hidden_sizes": [16, 32, 64, 96], "depths": [1] * 4, "decoder_hidden_size": 48}
    return t.SegformerForSemanticSegmentation(t.SegformerConfig(num_labels=9, **sizes))


def _t5() -> Any:
    return t.T5EncoderModel(t.T5Config(vocab_size=100, d_model=96, num_layers=3, num_heads=4, d_kv=24, d_ff=192))


MODELS: dict[str, Model] = {
    "sam": Model(_sam_vision),
    "sam_hq": Model(_sam_hq_vision),
    "sam2": Model(_sam2_vision),
    "sam3_vit": Model(_sam3_vit),
    "hiera": Model(lambda: t.HieraModel(t.HieraConfig(**HIERA))),
    "vitdet": Model(_vitdet),
    "mask2former": Model(lambda: _masks("mask2former"), output="masks_queries_logits"),
    "maskformer": Model(lambda: _masks("maskformer"), output="masks_queries_logits"),
    "eomt": Model(_eomt, output="masks_queries_logits"),
    "dinov3": Model(lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**WIDE, num_register_tokens=2))),
    "dinov2": Model(lambda: t.Dinov2Model(t.Dinov2Config(**VIT, patch_size=16))),
    "depth_anything": Model(_depth_anything, output="predicted_depth"),
    "dpt": Model(_dpt, output="logits"),
    "swin": Model(lambda: t.SwinModel(t.SwinConfig(window_size=4, **SWIN))),
    "swinv2": Model(lambda: t.Swinv2Model(t.Swinv2Config(window_size=4, **SWIN))),
    "upernet": Model(_upernet, output="logits"),
    "segformer": Model(_segformer, output="logits"),
    "pvt_v2": Model(_pvt),
    "beit": Model(lambda: t.BeitModel(t.BeitConfig(**WIDE, use_relative_position_bias=True))),
    "convnext": Model(lambda: _convnext("v1")),
    "convnextv2": Model(lambda: _convnext("v2")),
    "clipseg": Model(_clipseg, (*IMAGE, *WORDS), "logits"),
    "groupvit": Model(_groupvit),
    "siglip": Model(lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**WIDE)), output="pooler_output"),
    "owlv2": Model(lambda: t.Owlv2VisionModel(t.Owlv2VisionConfig(**WIDE))),
    "bert": Model(lambda: t.BertModel(t.BertConfig(**TEXT, **EAGER)), WORDS),
    "roberta": Model(lambda: t.RobertaModel(t.RobertaConfig(**TEXT, **EAGER)), WORDS),
    "t5": Model(_t5, WORDS),
}
"""By name."""
