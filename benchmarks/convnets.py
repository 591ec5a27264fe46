"""Small models in which convolutions rule, with random weights, and images for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.graphs import Sample, images

COUNT = 16


class _Fields(nn.Module):
    """Chosen fields of a model's output, as a tuple."""

    def __init__(self, model: nn.Module, *fields: str, **given: Any) -> None:
        super().__init__()
        self.model, self.fields, self.given = model, fields, given

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        out = self.model(image, **self.given)
        found = [getattr(out, field) for field in self.fields]
        return tuple(one for held in found for one in (held if isinstance(held, (list, tuple)) else [held]))


class _Inverted(nn.Module):
    """An inverted bottleneck: pointwise, depthwise, pointwise, and the skip connection."""

    def __init__(self, channels: int, kernel: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 4 * channels
        self.body = nn.Sequential(
            _normed(nn.Conv2d(channels, wide, 1, bias=False)),
            act(),
            _normed(nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False)),
            act(),
            _normed(nn.Conv2d(wide, channels, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class _Mixer(nn.Module):
    """A depthwise token mixer in front of a pointwise MLP, as FastViT and RepViT have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixer = _normed(nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False))
        self.mlp = nn.Sequential(nn.Conv2d(channels, 3 * channels, 1), nn.GELU(), nn.Conv2d(3 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x)
        return x + self.mlp(x)  # type: ignore[no-any-return]


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


class _Net(nn.Module):
    """A stem, stages of blocks at falling resolution, and the features of the last ones."""

    def __init__(self, block: Callable[[int], nn.Module], widths: Sequence[int] = (16, 32, 64), depth: int = 2) -> None:
        super().__init__()
        stages, before = [], 3
        for width in widths:
            stages.append(
                nn.Sequential(
                    _normed(nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)),
                    nn.GELU(),
                    *(block(width) for _ in range(depth)),
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.neck = nn.Sequential(nn.Conv2d(before, 32, 1), nn.GroupNorm(1, 32))

    def forward(self, image: Tensor) -> Tensor:
        for stage in self.stages:
            image = stage(image)
        return self.neck(image)  # type: ignore[no-any-return]


def mobile() -> nn.Module:
    """Inverted bottlenecks with ReLU6, as in MobileNet."""
    return _Net(lambda width: _Inverted(width, 3, nn.ReLU6))


def tinyvit() -> nn.Module:
    """Inverted bottlenecks with GELU, as in TinyViT's first stage."""
    return _Net(lambda width: _Inverted(width, 3, nn.GELU))


def fastvit() -> nn.Module:
    """Depthwise mixers and pointwise MLPs, as in FastViT and RepViT (EdgeTAM)."""
    return _Net(_Mixer, depth=3)


def resnet() -> nn.Module:
    """Bottlenecks with ReLU."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128], depths=[2, 2, 2])
    return _Fields(ResNetModel(config), "last_hidden_state")


def rt_detr() -> nn.Module:
    """RT-DETR's ResNet and hybrid encoder; its decoder sorts queries, so a tiny error there becomes a jump."""
    from transformers import RTDetrConfig, RTDetrModel, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[32, 64, 128],
        encoder_hidden_dim=64,
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        d_model=64,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=40,
    )
    return _Fields(RTDetrModel(config), "encoder_last_hidden_state")


def depth_anything() -> nn.Module:
    """DINOv2 and the convolutions of DPT."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=128,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=16,
        reassemble_hidden_size=96,
        neck_hidden_sizes=[16, 32, 64, 96],
        fusion_hidden_size=32,
        head_hidden_size=16,
    )
    return _Fields(DepthAnythingForDepthEstimation(config), "predicted_depth")


def davit() -> nn.Module:
    """Florence-2's vision tower: depthwise positions, windows, channel attention."""
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
    from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone

    config = Florence2VisionConfig(
        depths=(1, 1, 2, 1),
        embed_dim=(16, 32, 64, 128),
        num_heads=(1, 2, 4, 8),
        num_groups=(1, 2, 4, 8),
        window_size=4,
        projection_dim=64,
    )
    return _Fields(Florence2VisionBackbone(config), "last_hidden_state")


def convnext() -> nn.Module:
    """Depthwise convolutions and token linears."""
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 3, 1], layer_scale_init_value=0.5)
    return _Fields(ConvNextModel(config), "last_hidden_state")


def mobilevit() -> nn.Module:
    """Inverted bottlenecks with SiLU, and transformers over unfolded patches."""
    from transformers import MobileViTConfig, MobileViTModel

    config = MobileViTConfig(
        image_size=128,
        hidden_sizes=[48, 64, 80],
        neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 160],
        num_attention_heads=4,
    )
    return _Fields(MobileViTModel(config), "last_hidden_state")


def segformer() -> nn.Module:
    """Strided convolutions on keys, depthwise ones in the MLPs, and a head of convolutions."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], decoder_hidden_size=48, num_labels=9)
    return _Fields(SegformerForSemanticSegmentation(config), "logits")


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobile": (mobile, 64),
    "tinyvit": (tinyvit, 64),
    "fastvit": (fastvit, 64),
    "resnet": (resnet, 64),
    "rt_detr": (rt_detr, 128),
    "depth_anything": (depth_anything, 128),
    "davit": (davit, 128),
    "convnext": (convnext, 128),
    "mobilevit": (mobilevit, 128),
    "segformer": (segformer, 128),
}
"""Models and the size of their images."""


def build(name: str, folder: Path) -> tuple[Path, list[Sample]]:
    """The file of a model, and images: the last ones are held out."""
    make, size = MODELS[name]
    samples = images(COUNT, size, 7)
    path = folder / f"{name}.onnx"
    if path.exists():
        return path, samples
    torch.manual_seed(0)
    module, batch = make(), torch.from_numpy(np.concatenate([sample["image"] for sample in samples]))
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in norms:
            one.weight.uniform_(0.2, 2.0)
            one.bias.normal_(0.0, 0.5)
            one.momentum = None
        module.eval()
        for one in norms:
            one.train()
        if norms:
            module(batch)
        folder.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(module.eval(), (batch[:1],), str(path), input_names=["image"], opset_version=17, dynamo=False)
    return path, samples
