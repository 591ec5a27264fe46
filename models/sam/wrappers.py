"""The two halves of Segment Anything as they are exported.

The encoder takes a normalised image. The decoder takes one image's embedding and a batch of prompts, each as points
with labels (1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding), in pixels of the encoder's input,
and returns all four masks at a quarter of the input's size and their predicted IoU. A box alone is two points: no
padding point is added, so the decoder sees seven tokens, as segment_anything's own predictor does for boxes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """image [B, 3, S, S] (normalised) -> image_embeddings [B, C, g, g]."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        """The package's own forward."""
        embeddings: Tensor = self.image_encoder(image)
        return embeddings


class Decoder(nn.Module):
    """Embedding and prompts -> low_res_masks [N, 4, 4g, 4g] (logits), iou_predictions [N, 4]."""

    def __init__(self, sam: Any, *, mask_input: bool = False) -> None:
        """``mask_input`` adds the two inputs of a previous mask, for refinement."""
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.size = int(sam.image_encoder.img_size)
        self.grid = int(sam.prompt_encoder.image_embedding_size[0])
        self.with_mask = mask_input
        self.register_buffer("dense_pe", sam.prompt_encoder.get_dense_pe().detach(), persistent=False)

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Coordinates [N, k, 2], labels [N, k]; optionally masks [N or 1, 1, 4g, 4g] and a 0/1 flag [1]."""
        sparse = self.embed_points(point_coords, point_labels)
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if mask_input is not None and has_mask_input is not None:
            dense = has_mask_input * self.prompt_encoder.mask_downscaling(mask_input) + (1 - has_mask_input) * dense
        return self.decode(image_embeddings + dense, sparse)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Prompt tokens [N, k, C], by arithmetic alone: the package indexes by label, which exporters cannot trace."""
        encoder = self.prompt_encoder
        position = encoder.pe_layer._pe_encoding((coords + 0.5) / self.size)
        label = labels.unsqueeze(-1)
        tokens: Tensor = position * (label != -1) + encoder.not_a_point_embed.weight * (label == -1)
        for i, embedding in enumerate(encoder.point_embeddings):
            tokens = tokens + embedding.weight * (label == i)
        return tokens

    def decode(self, source: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """The package's `predict_masks` with the image repeated by Expand, in shapes independent of the batch."""
        decoder, grid = self.mask_decoder, self.grid
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).unsqueeze(0)
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], 1)
        source = source.expand(sparse.shape[0], -1, -1, -1)
        hidden, image = decoder.transformer(source, self.dense_pe, tokens)
        image = image.transpose(1, 2).reshape(-1, source.shape[1], grid, grid)
        upscaled = decoder.output_upscaling(image)
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
        masks = (weights @ upscaled.flatten(2)).reshape(-1, decoder.num_mask_tokens, 4 * grid, 4 * grid)
        return masks, decoder.iou_prediction_head(hidden[:, 0])
