"""Small models of every structure that the quantizer supports, with random weights, exported in a second or two.

`write` exports one of them through either of torch's exporters; `cached` keeps the files in a folder. Weights are drawn
so that softmax rows are uneven, normalisations have affine parts and running statistics, and position tables matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from onnxptq.errors import InputError
from onnxptq.models.export import Exported, Exporter, export
from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.lavt.model import LAVT
from onnxptq.models.mini_parts import ConvNet, Hidden, TextHidden
from onnxptq.models.sam.build import build
from onnxptq.models.sam.config import SamConfig
from onnxptq.models.sam.wrappers import Decoder, Encoder

SAM = SamConfig(
    image_size=96,
    patch_size=8,
    embed_dim=48,
    depth=3,
    heads=3,
    window=5,
    global_attention=(2,),
    prompt_dim=32,
    decoder_heads=4,
    decoder_mlp=64,
    iou_hidden=32,
)
LAVT_SIZES = LavtConfig(
    image_size=64,
    embed_dim=16,
    depths=(2, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    window=3,
    decoder_width=16,
    max_tokens=10,
    text={
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    },
)


@dataclass(frozen=True)
class Mini:
    """Makes one model and its inputs."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], dict[str, Tensor]]
    """Inputs of a batch size (of a number of prompts, for the SAM decoder)."""
    outputs: tuple[str, ...]
    dynamic: tuple[str, ...]
    """Inputs whose first axis is the batch."""
    texts: tuple[str, ...] = ()
    """Inputs and outputs whose second axis is as long as the text."""


def _image(size: int, name: str = "image") -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda batch, source: {name: torch.randn(batch, 3, size, size, generator=source)}


def _text(words: int, length: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    def inputs(batch: int, source: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(1, words, (batch, length), generator=source)
        used = torch.randint(length // 2, length + 1, (batch, 1), generator=source)
        mask = (torch.arange(length)[None] < used).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    return inputs


def _image_and_text(batch: int, source: torch.Generator) -> dict[str, Tensor]:
    words = int(LAVT_SIZES.text["vocab_size"])
    return _image(LAVT_SIZES.image_size)(batch, source) | _text(words, LAVT_SIZES.max_tokens)(batch, source)


def _prompts(count: int, source: torch.Generator) -> dict[str, Tensor]:
    return {
        "image_embeddings": torch.randn(1, SAM.prompt_dim, SAM.grid, SAM.grid, generator=source),
        "point_coords": torch.rand(count, 2, 2, generator=source) * SAM.image_size,
        "point_labels": torch.tensor([[2.0, 3.0]]).repeat(count, 1),
    }


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    return TextHidden(BertModel(config, add_pooling_layer=False))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        patch_size=16,
        attn_implementation="eager",
    )
    return Hidden(ViTModel(config, add_pooling_layer=False))


def _swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=56,
        patch_size=4,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        attn_implementation="eager",
    )
    return Hidden(SwinModel(config, add_pooling_layer=False))


MINIS: dict[str, Mini] = {
    "sam-encoder": Mini(lambda: Encoder(build(SAM)), _image(SAM.image_size), ("image_embeddings",), ("image",)),
    "sam-decoder": Mini(
        lambda: Decoder(build(SAM)), _prompts, ("low_res_masks", "iou_predictions"), ("point_coords", "point_labels")
    ),
    "bert": Mini(
        _bert, _text(100, 12), ("hidden",), ("input_ids", "attention_mask"), ("input_ids", "attention_mask", "hidden")
    ),
    "vit": Mini(_vit, _image(64), ("hidden",), ("image",)),
    "swin": Mini(_swin, _image(56), ("hidden",), ("image",)),
    "cnn": Mini(ConvNet, _image(32), ("logits",), ("image",)),
    "lavt": Mini(lambda: LAVT(LAVT_SIZES), _image_and_text, ("logits",), ("image", "input_ids", "attention_mask")),
}
"""Window attention with padding and global attention, both with relative position; token-to-image attention; text with
a mask; plain attention; shifted and padded windows; BatchNormalization, depthwise and transposed convolutions; language
fusion."""


def model(name: str, *, seed: int = 0) -> nn.Module:
    """The torch module, in eval mode."""
    if name not in MINIS:
        raise InputError(f"mini model '{name}': choose {', '.join(MINIS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MINIS[name].build()
        _enliven(module)
    return module.eval()


def samples(name: str, count: int, *, seed: int = 1, batch: int = 1) -> list[dict[str, np.ndarray]]:
    """Random inputs, one dictionary a call."""
    source = torch.Generator().manual_seed(seed)
    return [{k: v.numpy() for k, v in MINIS[name].inputs(batch, source).items()} for _ in range(count)]


def write(
    name: str, path: str | Path, *, exporter: Exporter = "torchscript", dynamic_batch: bool = False, seed: int = 0
) -> Exported:
    """Export one model; a dynamic batch makes the length of texts dynamic too.

    The SAM decoder's number of prompts is always dynamic.
    """
    module, mini = model(name, seed=seed), MINIS[name]
    dynamic_batch = dynamic_batch or name == "sam-decoder"
    inputs = mini.inputs(2 if dynamic_batch else 1, torch.Generator().manual_seed(seed))
    check = mini.inputs(3, torch.Generator().manual_seed(seed + 1)) if dynamic_batch else None
    length = {key: {1: "length"} for key in mini.texts}
    axes = (
        {key: {0: "batch"} | length.get(key, {}) for key in (*mini.dynamic, *mini.outputs)} if dynamic_batch else None
    )
    return export(module, inputs, mini.outputs, path, exporter=exporter, dynamic=axes, check=check)


def cached(
    name: str, folder: str | Path, *, exporter: Exporter = "torchscript", dynamic_batch: bool = False
) -> Exported:
    """`write`, or the files of an earlier `write` by the same code in ``folder``."""
    stem = f"{name}-{exporter}{'-batch' if dynamic_batch else ''}-{_source_digest()}"
    path, record = Path(folder) / f"{stem}.onnx", Path(folder) / f"{stem}.npz"
    if not record.exists():
        done = write(name, path, exporter=exporter, dynamic_batch=dynamic_batch)
        arrays = {f"in:{k}": v for k, v in done.feeds.items()} | {f"out:{k}": v for k, v in done.expected.items()}
        np.savez(record, **arrays)  # type: ignore[arg-type]
        return done
    with np.load(record) as held:
        parts = {key: held[key] for key in held.files}
    feeds = {key[3:]: value for key, value in parts.items() if key.startswith("in:")}
    return Exported(path, feeds, {key[4:]: value for key, value in parts.items() if key.startswith("out:")})


def _enliven(module: nn.Module) -> None:
    """Seeded weights, none of them at its neutral value."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2.0)
            if isinstance(part, (nn.LayerNorm, nn.BatchNorm2d)):
                part.weight.normal_(1.0, 0.2)
                part.bias.normal_(0.0, 0.2)
            elif isinstance(part, nn.Linear):
                part.weight.normal_(0.0, 1.2 * part.in_features**-0.5)
                if part.bias is not None:
                    part.bias.normal_(0.0, 0.3)
        for key, parameter in module.named_parameters():
            if key.endswith(
                (
                    "pos_embed",
                    "rel_pos_h",
                    "rel_pos_w",
                    "relative_position_bias_table",
                    "position_embeddings",
                    "cls_token",
                )
            ):
                parameter.normal_(0.0, 0.5)


def _source_digest() -> str:
    """Digest of this package's code and torch's version, so that stale files are not used."""
    digest = hashlib.sha256(torch.__version__.encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        if "zoo" not in file.parts:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
