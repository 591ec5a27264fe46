"""Transformers without special support: small random ones, from both exporters, through the whole pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxptq import Quantizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EAGER: dict[str, Any] = {"attn_implementation": "eager"}
VIT: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 16,
} | EAGER
TEXT: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1] * 4,
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
}


@dataclass(frozen=True)
class Architecture:
    """How to make one, what goes in, what comes out, and how many attentions are to be fused."""

    build: Callable[[Any], Any]
    inputs: tuple[str, ...]
    output: str
    fused: int


def _clipseg(t: Any) -> Any:
    text = {**TEXT, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 0}
    vision = {**VIT, "num_hidden_layers": 4, "intermediate_size": 96}
    decoder = {
        "extract_layers": [1, 2, 3],
        "reduce_dim": 16,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 32,
    }
    return t.CLIPSegForImageSegmentation(
        t.CLIPSegConfig(text_config=text, vision_config=vision, projection_dim=32, **decoder, **EAGER)
    )


def _segformer(t: Any) -> Any:
    sizes = {
        "hidden_sizes": [16, 32, 64, 96],
        "depths": [1] * 4,
        "num_attention_heads": [1, 2, 4, 6],
        "decoder_hidden_size": 32,
    }
    return t.SegformerForSemanticSegmentation(t.SegformerConfig(num_labels=4, **sizes))


def _upernet(t: Any) -> Any:
    backbone = t.SwinConfig(out_features=STAGES, **SWIN)
    sizes = {"hidden_size": 32, "num_labels": 3, "pool_scales": [1, 2], "use_auxiliary_head": False}
    return t.UperNetForSemanticSegmentation(t.UperNetConfig(backbone_config=backbone, **sizes))


def _dpt(t: Any) -> Any:
    sizes = {
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16] * 4,
        "fusion_hidden_size": 16,
        "num_labels": 3,
    }
    return t.DPTForSemanticSegmentation(
        t.DPTConfig(**{**VIT, "num_hidden_layers": 4, "intermediate_size": 96}, **sizes)
    )


def _depth_anything(t: Any) -> Any:
    backbone = t.Dinov2Config(
        **{**VIT, "num_hidden_layers": 4, "image_size": 56, "patch_size": 8},
        out_features=STAGES,
        reshape_hidden_states=False,
    )
    sizes = {"reassemble_hidden_size": 48, "patch_size": 8, "neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}
    return t.DepthAnythingForDepthEstimation(t.DepthAnythingConfig(backbone_config=backbone, **sizes))


IMAGE, WORDS = ("pixel_values",), ("input_ids", "attention_mask")
LAST = "last_hidden_state"
KNOWN = {
    "segformer": Architecture(_segformer, IMAGE, "logits", 4),
    "swinv2": Architecture(
        lambda t: t.Swinv2Model(t.Swinv2Config(**{**SWIN, "depths": [2, 2], "num_heads": [2, 4]}, **EAGER)),
        IMAGE,
        LAST,
        4,
    ),
    "clipseg": Architecture(_clipseg, (*IMAGE, *WORDS), "logits", 9),
    "upernet": Architecture(_upernet, IMAGE, "logits", 4),
    "dpt": Architecture(_dpt, IMAGE, "logits", 4),
    "beit": Architecture(lambda t: t.BeitModel(t.BeitConfig(**VIT, use_relative_position_bias=True)), IMAGE, LAST, 2),
    "dinov2": Architecture(lambda t: t.Dinov2Model(t.Dinov2Config(**VIT)), IMAGE, LAST, 2),
    "dinov3": Architecture(
        lambda t: t.DINOv3ViTModel(t.DINOv3ViTConfig(**VIT, intermediate_size=96, num_register_tokens=2)),
        IMAGE,
        LAST,
        2,
    ),
    "depth_anything": Architecture(_depth_anything, IMAGE, "predicted_depth", 4),
    "pvt": Architecture(
        lambda t: t.PvtV2Model(
            t.PvtV2Config(
                image_size=64,
                hidden_sizes=[16, 32, 48, 64],
                depths=[1] * 4,
                num_attention_heads=[1, 2, 4, 4],
                mlp_ratios=[2] * 4,
            )
        ),
        IMAGE,
        LAST,
        4,
    ),
    "deberta": Architecture(
        lambda t: t.DebertaV2Model(
            t.DebertaV2Config(
                **TEXT,
                max_position_embeddings=40,
                relative_attention=True,
                position_buckets=8,
                pos_att_type=["p2c", "c2p"],
            )
        ),
        WORDS,
        LAST,
        2,
    ),
    "distilbert": Architecture(
        lambda t: t.DistilBertModel(
            t.DistilBertConfig(
                vocab_size=100, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=40, **EAGER
            )
        ),
        WORDS,
        LAST,
        2,
    ),
    "t5": Architecture(
        lambda t: t.T5EncoderModel(t.T5Config(vocab_size=100, d_model=48, num_layers=2, num_heads=4, d_kv=12, d_ff=96)),
        WORDS,
        LAST,
        2,
    ),
    "gpt2": Architecture(
        lambda t: t.GPT2Model(
            t.GPT2Config(
                vocab_size=100,
                n_embd=48,
                n_layer=2,
                n_head=4,
                n_positions=32,
                use_cache=False,
                bos_token_id=0,
                eos_token_id=1,
                **EAGER,
            )
        ),
        WORDS,
        LAST,
        2,
    ),
}
QUICK = ("segformer", "swinv2")


def _sample(names: tuple[str, ...], source: Any) -> dict[str, Any]:
    words = torch.randint(3, 99, (1, 12), generator=source)
    made = {
        "pixel_values": torch.randn(1, 3, 64, 64, generator=source),
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
    }
    return {name: made[name] for name in names}


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        pytest.param(name, exporter, marks=() if name in QUICK and exporter == "torchscript" else pytest.mark.slow)
        for name in KNOWN
        for exporter in ("torchscript", "dynamo")
    ],
)
def test_goes_through(name: str, exporter: Any, tmp_path: Path) -> None:
    from onnxptq.models.export import export

    known = KNOWN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = known.build(transformers).eval()

    class Wrapped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs

        def forward(self, *given: Any) -> Any:
            return getattr(self.inner(**dict(zip(known.inputs, given, strict=True))), known.output)

    source = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(Wrapped().eval(), _sample(known.inputs, source), ("y",), tmp_path / "m.onnx", exporter=exporter)
    q = Quantizer(tmp_path / "m.onnx", bits="w8a8", threads=1)
    q.calibrate([{key: array.numpy() for key, array in _sample(known.inputs, source).items()} for _ in range(6)])
    result = q.quantize()
    assert (sqnr := result.report.outputs["y"].sqnr) is not None
    assert sqnr > 18
    assert sum(node.op_type == "QAttention" for node in result.model.graph.node) == known.fused
