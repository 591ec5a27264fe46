"""transformers' SamModel with the same two halves and the same interface as the original's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxptq.errors import InputError
from onnxptq.models.export import Exported, Exporter
from onnxptq.models.sam.to_onnx import decoder_onnx, encoder_onnx


def load(folder: str | Path) -> Any:
    """A model saved by `save_pretrained` (config.json and weights), attention written out."""
    from transformers import SamModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"checkpoint {folder}: no config.json; give a folder saved by transformers' SamModel")
    try:
        return SamModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"checkpoint {folder} is not a SamModel: {str(error).splitlines()[0]}") from None


def export_encoder(
    model: Any, path: str | Path, *, exporter: Exporter = "torchscript", dynamic_batch: bool = False
) -> Exported:
    """image -> image_embeddings."""
    return encoder_onnx(
        HfEncoder(model),
        int(model.config.vision_config.image_size),
        path,
        exporter=exporter,
        dynamic_batch=dynamic_batch,
    )


def export_decoder(
    model: Any, path: str | Path, *, exporter: Exporter = "torchscript", mask_input: bool = False
) -> Exported:
    """image_embeddings, point_coords, point_labels (and mask_input, has_mask_input) -> low_res_masks,
    iou_predictions."""
    module = HfDecoder(model, mask_input=mask_input)
    channels = int(model.config.prompt_encoder_config.hidden_size)
    return decoder_onnx(module, channels, module.grid, module.size, path, exporter=exporter, mask_input=mask_input)


class HfEncoder(nn.Module):
    """image [B, 3, S, S] (normalised) -> image_embeddings [B, C, g, g]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_encoder = model.vision_encoder

    def forward(self, image: Tensor) -> Tensor:
        """The vision encoder with its neck."""
        embeddings: Tensor = self.vision_encoder(image).last_hidden_state
        return embeddings


class HfDecoder(nn.Module):
    """Embedding and prompts -> low_res_masks [N, 4, 4g, 4g] (logits), iou_predictions [N, 4]."""

    def __init__(self, model: Any, *, mask_input: bool = False) -> None:
        """``mask_input`` adds the two inputs of a previous mask, for refinement."""
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.position = model.shared_image_embedding
        self.size = int(model.config.vision_config.image_size)
        self.grid = int(model.config.prompt_encoder_config.image_embedding_size)
        self.with_mask = mask_input
        self.register_buffer("dense_pe", model.get_image_wide_positional_embeddings().detach(), persistent=False)

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Coordinates [N, k, 2], labels [N, k]; optionally masks [N or 1, 1, 4g, 4g] and a 0/1 flag [1]."""
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if mask_input is not None and has_mask_input is not None:
            dense = has_mask_input * self.prompt_encoder.mask_embed(mask_input) + (1 - has_mask_input) * dense
        return self.decode(image_embeddings + dense, self.embed_points(point_coords, point_labels))

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Prompt tokens [N, k, C]; box corners too are points here."""
        encoder, label = self.prompt_encoder, labels.unsqueeze(-1)
        position = self.position((coords + 0.5) / self.size)
        tokens: Tensor = position * (label != -1) + encoder.not_a_point_embed.weight * (label == -1)
        for i, embedding in enumerate(encoder.point_embed):
            tokens = tokens + embedding.weight * (label == i)
        return tokens

    def decode(self, source: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """`SamMaskDecoder.forward` for one image, all four masks kept."""
        decoder, grid = self.mask_decoder, self.grid
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).unsqueeze(0)
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], 1).unsqueeze(1)
        source = source.expand(sparse.shape[0], -1, -1, -1)
        hidden, image = decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=source,
            image_positional_embeddings=self.dense_pe,
            attention_similarity=None,
        )
        image = image.transpose(2, 3).reshape(-1, source.shape[1], grid, grid)
        upscaled = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
        upscaled = decoder.activation(decoder.upscale_conv2(upscaled))
        weights = torch.stack([mlp(hidden[:, 0, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
        masks = (weights @ upscaled.flatten(2)).reshape(-1, decoder.num_mask_tokens, 4 * grid, 4 * grid)
        return masks, decoder.iou_prediction_head(hidden[:, 0, 0])
