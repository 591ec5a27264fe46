"""Models in which convolutions rule, beside onnxruntime: `python -m benchmarks.convolutions FOLDER [names...]`.

The models are small, with random weights; the batch normalizations get random factors and the statistics of the
images. SQNR is the mean over the outputs of the median over held-out images. `onnxruntime dynamic` codes linears
alone (its integer convolution takes no signed weights), `onnxruntime static` what it codes by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.graphs import Sample, images
from benchmarks.measure import plain_session
from benchmarks.peers import Reader
from onnxptq.report.text import markdown_table
from onnxptq.running.metrics import decibels

COUNT = 16
HELD_OUT = 8


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


def ratio(expected: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> float:
    """Mean over outputs of the median over samples of the SQNR, dB."""
    found = [
        [
            decibels(float(np.square(a, dtype=np.float64).sum()), float(np.square(a - b, dtype=np.float64).sum()))
            for a, b in zip(want, have, strict=True)
        ]
        for want, have in zip(expected, got, strict=True)
    ]
    return float(np.mean(np.median(np.array(found), axis=0)))


def _peer(path: Path, out: Path, samples: list[Sample], *, static: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    if static:
        quantize_static(
            str(prepared),
            str(out),
            Reader(samples),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    else:
        quantize_dynamic(str(prepared), str(out), per_channel=True, op_types_to_quantize=["MatMul"])
    prepared.unlink()


def measure(name: str, folder: Path, bits: str, settings: dict[str, str]) -> dict[str, Any]:
    """SQNR of our file and onnxruntime's on the held-out images; and ours by site."""
    from onnxptq import Quantizer, session

    path, samples = build(name, folder)
    calibration, held = samples[:-HELD_OUT], samples[-HELD_OUT:]

    def run(made: Any) -> list[Any]:
        return [made.run(None, sample) for sample in held]

    expected = run(plain_session(path))
    record: dict[str, Any] = {"name": name}
    for kind in ("dynamic", "static"):
        out, figures = folder / f"{name}.{kind}.onnx", folder / f"{name}.{kind}.json"
        if not figures.exists():
            _peer(path, out, calibration, static=kind == "static")
            figures.write_text(json.dumps(ratio(expected, run(plain_session(out, optimize=False)))))
        record[kind] = json.loads(figures.read_text())
    quantizer = Quantizer(path, bits=bits, settings=settings)
    quantizer.calibrate(calibration)
    result = quantizer.quantize()
    out = folder / f"{name}.{bits}.onnx"
    result.save(out)
    record["ours"] = ratio(expected, run(session(out, threads=1)))
    record["float"] = sum(site.scheme == "float" for site in result.report.sites)
    record["sites"] = [(s.key, str(s.role), s.calibrator, s.bits, s.sqnr) for s in result.report.sites]
    record["selection"] = [vars(verdict) for verdict in result.report.selection]
    record["warnings"] = list(result.report.warnings)
    record["mib"] = (path.stat().st_size / 2**20, out.stat().st_size / 2**20)
    return record


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sites", action="store_true", help="print the SQNR of every site too")
    args = parser.parse_args()
    rows = []
    for name in args.names or MODELS:
        record = measure(name, args.folder, args.bits, dict(one.split("=", 1) for one in args.set))
        rows.append(
            [
                name,
                *(f"{record[key]:.1f}" for key in ("ours", "dynamic", "static")),
                f"{record['mib'][0] / record['mib'][1]:.2f}x",
            ]
        )
        print(*rows[-1], *record["warnings"], file=sys.stderr, flush=True)
        if args.sites:
            for verdict in record["selection"]:
                print("  ", verdict, file=sys.stderr)
            for key, role, calibrator, width, sqnr in record["sites"]:
                print(
                    f"   {sqnr if sqnr is not None else float('nan'):6.1f} {role:14s} {calibrator:12s} {width} {key}",
                    file=sys.stderr,
                )
    print(
        markdown_table(
            ["", f"`auto`, {args.bits}, dB", "onnxruntime dynamic, dB", "onnxruntime static, dB", "smaller than FP32"],
            rows,
        )
    )


if __name__ == "__main__":
    main()
