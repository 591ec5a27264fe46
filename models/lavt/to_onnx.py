"""Write LAVT as one ONNX file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from onnxptq.models.export import Exported, Exporter, export
from onnxptq.models.lavt.model import LAVT


def export_lavt(
    model: LAVT, path: str | Path, *, exporter: Exporter = "torchscript", dynamic_batch: bool = False
) -> Exported:
    """image, input_ids, attention_mask -> logits; one sample a call unless ``dynamic_batch``."""
    names = ("image", "input_ids", "attention_mask", "logits")
    dynamic = {name: {0: "batch"} for name in names} if dynamic_batch else None
    inputs = sample_inputs(model, 2 if dynamic_batch else 1)
    return export(model, inputs, ["logits"], path, exporter=exporter, dynamic=dynamic)


def sample_inputs(model: LAVT, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random images and sentences, the later ones shorter, so that padding is exercised."""
    source = torch.Generator().manual_seed(seed)
    config = model.cfg
    words = model.text_encoder.config.vocab_size
    ids = torch.randint(1, words, (batch, config.max_tokens), generator=source)
    length = torch.arange(batch).add(2).mul(4).clamp(max=config.max_tokens)
    mask = (torch.arange(config.max_tokens)[None] < length[:, None]).long()
    image = torch.randn(batch, 3, config.image_size, config.image_size, generator=source)
    return {"image": image, "input_ids": ids * mask, "attention_mask": mask}
