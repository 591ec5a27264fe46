"""LAVT's losses, and the auxiliary heads of its training.

Weighted cross-entropy plus Dice. Swin starts from random weights, so auxiliary heads predict every token's shape,
colour, pattern, size and offset to its object's centre; they replace ImageNet pretraining. Fused maps get coarse mask
heads. Each scene is used with several expressions; the first blocks, before any language, then run once a scene.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxptq.datasets import scenes
from onnxptq.datasets.prompts import IMAGENET_MEAN, IMAGENET_STD
from onnxptq.models.lavt.model import LAVT

CLASSES = tuple(1 + len(names) for names in (scenes.SHAPES, scenes.COLORS, scenes.PATTERNS, scenes.SIZES))
REGRESSED = 5  # own x, y; the centre's dx, dy; log radius


class LavtTrainee(nn.Module):
    """A LAVT with auxiliary heads, laid out for several expressions an image."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: LAVT, refs: int) -> None:
        super().__init__()
        self.model, self.refs = model, refs
        width = model.cfg.embed_dim
        self.aux = nn.ModuleDict({str(i): nn.Linear(width << i, sum(CLASSES) + REGRESSED) for i in (1, 2)})
        self.deep = nn.ModuleDict({str(i): nn.Conv2d(width << i, 1, 1) for i in (1, 2, 3)})
        self.register_buffer("mean", torch.from_numpy(IMAGENET_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.from_numpy(IMAGENET_STD).view(1, 3, 1, 1) * 255, persistent=False)

    def look(self, planes: Tensor) -> list[Tensor]:
        """A pass without language: the auxiliary outputs only."""
        backbone = self.model.backbone
        x, h, v = backbone.embed((planes.float() - self.mean) / self.std)
        outputs: list[Tensor] = []
        for i, stage in enumerate(backbone.stages):
            x = stage.look(x, h, v)
            if str(i) in self.aux:
                outputs.append(self.aux[str(i)](x))
            if i == 2 or stage.downsample is None:
                break
            x, h, v = stage.downsample(x, h, v), (h + 1) // 2, (v + 1) // 2
        return outputs

    def forward(self, planes: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Foreground margins [B * refs, S/4, S/4], auxiliary outputs, coarse mask logits."""
        backbone = self.model.backbone
        x, h, v = backbone.embed((planes.float() - self.mean) / self.std)
        maps, aux, deep = [], [], []
        for i, stage in enumerate(backbone.stages):
            x = stage.look(x, h, v)
            if i == 0:
                x = x.repeat_interleave(self.refs, 0)
            if str(i) in self.aux:
                aux.append(self.aux[str(i)](x[:: self.refs]))
            size = (h, v)
            fused, x, h, v = stage.fuse(x, h, v, words, word_mask)
            maps.append(backbone.to_map(i, fused, *size))
            if str(i) in self.deep:
                deep.append(self.deep[str(i)](maps[-1])[:, 0])
        logits = self.model.classifier(*maps)
        return logits[:, 1] - logits[:, 0], aux, deep


def mask_loss(margin: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the weighted cross-entropy (0.9, 1.1) plus Dice, at full size; and every sample's IoU."""
    margin = F.interpolate(margin[:, None].float(), truth.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    t = truth.float()
    weight = 0.9 + 0.2 * t
    entropy = (weight * F.softplus(margin * (1 - 2 * t))).sum() / weight.sum()
    p = margin.sigmoid()
    dice = 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
    hit = margin > 0
    iou = (hit & truth).sum((1, 2)) / (hit | truth).sum((1, 2)).clamp(min=1)
    return 2 * entropy + dice.mean(), iou


def deep_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Coarse supervision: the share of every token that the target covers; foreground counts more."""
    t = F.adaptive_avg_pool2d(truth[:, None].float(), (logits.shape[-2], logits.shape[-1]))[:, 0]
    weight = 1 + 4 * t
    return (F.binary_cross_entropy_with_logits(logits.float(), t, reduction="none") * weight).sum() / weight.sum()


def aux_loss(logits: Tensor, idmap: Tensor, attributes: Tensor, place: Tensor) -> Tensor:
    """Attributes and geometry of the object at every token's centre; background tokens count little."""
    side = round(logits.shape[1] ** 0.5)
    step = idmap.shape[-1] // side
    at = idmap[:, step // 2 :: step, step // 2 :: step].reshape(idmap.shape[0], -1).long()
    labels = attributes.gather(1, at[..., None].expand(-1, -1, 4))
    weight = torch.where(at > 0, 1.0, 0.15)
    *parts, geometry = torch.split(logits.float(), [*CLASSES, REGRESSED], -1)
    total = logits.new_zeros((), dtype=torch.float32)
    for part, label in zip(parts, labels.unbind(-1), strict=True):
        total = total + (F.cross_entropy(part.transpose(1, 2), label, reduction="none") * weight).sum()
    total = total / weight.sum() / 4
    grid = (torch.arange(side, device=at.device) + 0.5) / side
    own = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(1, -1, 2)
    there = place.gather(1, at[..., None].expand(-1, -1, 3))
    total = total + (geometry[..., :2] - own).abs().mean()
    wanted = torch.cat([(there[..., :2] - own) * 4, there[..., 2:]], -1)
    inside = (at > 0).float()[..., None]
    off: Tensor = ((geometry[..., 2:] - wanted).abs() * inside).sum() / (inside.sum() * 3).clamp(min=1)
    return total + off
