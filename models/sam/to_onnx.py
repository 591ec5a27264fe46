"""Write encoder and decoder as two ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxptq.models.export import Exported, Exporter, export
from onnxptq.models.sam.wrappers import Decoder, Encoder


def export_encoder(
    sam: Any, path: str | Path, *, exporter: Exporter = "torchscript", dynamic_batch: bool = False
) -> Exported:
    """image -> image_embeddings; one image a call unless ``dynamic_batch``."""
    return encoder_onnx(
        Encoder(sam), int(sam.image_encoder.img_size), path, exporter=exporter, dynamic_batch=dynamic_batch
    )


def export_decoder(
    sam: Any, path: str | Path, *, exporter: Exporter = "torchscript", mask_input: bool = False
) -> Exported:
    """image_embeddings, point_coords, point_labels (and mask_input, has_mask_input) -> low_res_masks,
    iou_predictions."""
    grid = int(sam.prompt_encoder.image_embedding_size[0])
    module = Decoder(sam, mask_input=mask_input)
    return decoder_onnx(
        module, int(sam.prompt_encoder.embed_dim), grid, module.size, path, exporter=exporter, mask_input=mask_input
    )


def encoder_onnx(
    module: nn.Module, size: int, path: str | Path, *, exporter: Exporter, dynamic_batch: bool
) -> Exported:
    """Any module that maps an image to an embedding."""
    images = torch.randn(2 if dynamic_batch else 1, 3, size, size, generator=torch.Generator().manual_seed(0))
    dynamic = {"image": {0: "batch"}, "image_embeddings": {0: "batch"}} if dynamic_batch else None
    return export(module, {"image": images}, ["image_embeddings"], path, exporter=exporter, dynamic=dynamic)


def decoder_onnx(
    module: nn.Module, channels: int, grid: int, size: int, path: str | Path, *, exporter: Exporter, mask_input: bool
) -> Exported:
    """Any module with the decoder's interface; prompts and points per prompt are dynamic."""
    inputs = _prompts(channels, grid, size, 3, 2, mask_input)
    dynamic = {name: {0: "prompts", 1: "points"} for name in ("point_coords", "point_labels")}
    dynamic |= {name: {0: "prompts"} for name in ("low_res_masks", "iou_predictions")}
    other = _prompts(channels, grid, size, 2, 4, mask_input)
    return export(
        module, inputs, ["low_res_masks", "iou_predictions"], path, exporter=exporter, dynamic=dynamic, check=other
    )


def _prompts(channels: int, grid: int, size: int, prompts: int, points: int, mask_input: bool) -> dict[str, Tensor]:
    """Random embeddings, and prompts with every label."""
    source = torch.Generator().manual_seed(prompts)
    labels = torch.tensor([2.0, 3.0, 1.0, -1.0])[:points].repeat(prompts, 1)
    inputs = {
        "image_embeddings": torch.randn(1, channels, grid, grid, generator=source),
        "point_coords": torch.rand(prompts, points, 2, generator=source) * size,
        "point_labels": labels,
    }
    if mask_input:
        inputs["mask_input"] = torch.randn(1, 1, 4 * grid, 4 * grid, generator=source)
        inputs["has_mask_input"] = torch.ones(1)
    return inputs
