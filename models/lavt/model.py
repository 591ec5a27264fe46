"""LAVT in plain torch, written from the paper and the public parameter layout.

Parameter names (`backbone.*`, `text_encoder.*`, `classifier.*`) follow the official release, so that its checkpoints
load. The graph is static for a given image size except for the batch, and all attention is written out (MatMul,
Softmax, MatMul), so that ONNX exports show every tensor a quantizer cares about.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from onnxptq.models.lavt.backbone import Backbone
from onnxptq.models.lavt.config import LavtConfig


class SimpleDecoding(nn.Module):
    """Top-down fusion of the four maps; two classes (background, referred object) at stride 4."""

    def __init__(self, width4: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or width4 // 2
        for name, extra in (("4", width4 + width4 // 2), ("3", hidden + width4 // 4), ("2", hidden + width4 // 8)):
            self.add_module(f"conv1_{name}", nn.Conv2d(extra, hidden, 3, padding=1, bias=False))
            self.add_module(f"bn1_{name}", nn.BatchNorm2d(hidden))
            self.add_module(f"conv2_{name}", nn.Conv2d(hidden, hidden, 3, padding=1, bias=False))
            self.add_module(f"bn2_{name}", nn.BatchNorm2d(hidden))
        self.conv1_1 = nn.Conv2d(hidden, 2, 1)

    def forward(self, c1: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> Tensor:
        x = c4
        for name, skip in (("4", c3), ("3", c2), ("2", c1)):
            size = (int(skip.shape[2]), int(skip.shape[3]))
            x = F.interpolate(x, size, mode="bilinear", align_corners=True)
            x = torch.cat([x, skip], 1)
            for k in (1, 2):
                x = getattr(self, f"bn{k}_{name}")(getattr(self, f"conv{k}_{name}")(x))
                x = F.relu(x)
        logits: Tensor = self.conv1_1(x)
        return logits


class LAVT(nn.Module):
    """image [B, 3, S, S] normalised, input_ids [B, N], attention_mask [B, N] -> logits [B, 2, S, S]."""

    def __init__(self, cfg: LavtConfig) -> None:
        super().__init__()
        self.cfg = cfg
        text = BertConfig(attn_implementation="eager", **dict(cfg.text))
        self.backbone = Backbone(cfg, text.hidden_size)
        self.classifier = SimpleDecoding(cfg.embed_dim * 8, cfg.decoder_width)
        self.text_encoder = BertModel(text, add_pooling_layer=False)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Word features [B, C, N] and word mask [B, 1, N] for the backbone."""
        mask = attention_mask.to(torch.float32)
        additive = (mask[:, None, None, :] - 1.0) * 1e4
        states = self.text_encoder(
            input_ids=input_ids,
            attention_mask=additive,
            token_type_ids=torch.zeros_like(input_ids),
        )[0]
        return states.transpose(1, 2), mask[:, None]

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words, word_mask = self.encode_text(input_ids, attention_mask)
        logits = self.classifier(*self.backbone(image, words, word_mask))
        size = (int(image.shape[2]), int(image.shape[3]))
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def random_lavt(config: LavtConfig, seed: int) -> LAVT:
    """A model with seeded random weights, for timing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LAVT(config).eval()
