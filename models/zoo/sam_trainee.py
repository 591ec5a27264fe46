"""The losses and prompts of SAM's training, at small scale.

Focal (20) and Dice (1) losses, squared error of the IoU head, the three-mask outputs trained by their best mask,
prompts of three kinds in every step: jittered boxes, one to three points, and a refinement round (the mask so far and a
point from its error).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxptq.models.sam.wrappers import Decoder


class SamTrainee(nn.Module):
    """A SAM with its losses: batch in, loss out."""

    def __init__(self, sam: Any, *, compiled: bool = False) -> None:
        super().__init__()
        self.sam = sam
        self.decoder = Decoder(sam)
        wrap: Callable[[Any], Any] = torch.compile if compiled else (lambda f: f)
        self._encode = wrap(lambda planes: sam.image_encoder((planes.float() - sam.pixel_mean) / sam.pixel_std))
        self._decode = wrap(self.decoder.decode)
        self._loss = wrap(loss)

    def forward(self, batch: dict[str, Tensor], points: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, and the IoU of the single-mask output for every kind of prompt."""
        per_scene = batch["target"].shape[1]
        full = batch["idmap"].repeat_interleave(per_scene, 0) == batch["target"].flatten()[:, None, None]
        size = full.shape[-1]
        truth = F.avg_pool2d(full[:, None].float(), size // (4 * self.decoder.grid))[:, 0]
        box = batch["box"].flatten(0, 1)
        empty = self.decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        source = self._encode(batch["planes"]).repeat_interleave(per_scene, 0)
        ious: dict[str, Tensor] = {}

        labels = torch.tensor([[2, 3]], device=box.device).expand(len(box), -1)
        masks, scores = self._decode(source + empty, self.decoder.embed_points(jitter(box, size), labels))
        box_loss, ious["box"] = self._loss(masks, scores, truth, True)

        coords, labels = some_points(full, box, points)
        masks, scores = self._decode(source + empty, self.decoder.embed_points(*padded(coords, labels)))
        point_loss, ious[f"points{points}"] = self._loss(masks, scores, truth, points == 1)

        before = masks[:, :1].detach().float()
        coords, labels = corrected(coords, labels, before, full)
        dense = self.decoder.prompt_encoder.mask_downscaling(before)
        masks, scores = self._decode(source + dense, self.decoder.embed_points(*padded(coords, labels)))
        refine_loss, ious["refined"] = self._loss(masks, scores, truth, False)
        return box_loss + point_loss + 0.7 * refine_loss, ious


def loss(logits: Tensor, scores: Tensor, truth: Tensor, several: bool) -> tuple[Tensor, Tensor]:
    """Loss of one decoder pass, and the IoU of its single-mask output.

    logits [n, 4, s, s]; truth [n, s, s] is how much of each low-resolution pixel the object covers. With ``several``
    the prompt may be ambiguous: of the three masks only the best learns.
    """
    logits, scores, t = logits.float(), scores.float(), truth[:, None]
    p = logits.sigmoid()
    focal = ((F.softplus(logits) - logits * t) * (p - t).abs().square()).mean((2, 3))
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    hit, solid = logits > 0, t > 0.5
    iou = (hit & solid).sum((2, 3)) / (hit | solid).sum((2, 3)).clamp(min=1)
    mask = 20 * focal + dice
    total = mask[:, 0].mean() + (scores - iou).square().mean()
    if several:
        total = total + mask[:, 1:].min(1).values.mean()
    return total, iou[:, 0]


def jitter(box: Tensor, size: int) -> Tensor:
    """Half of the boxes [n, 2, 2] move their corners by about a twentieth of their side."""
    side = (box[:, 1] - box[:, 0])[:, None]
    noise = (torch.randn_like(box) * 0.06 * side).clamp(-0.05 * size, 0.05 * size)
    moved = torch.rand(len(box), 1, 1, device=box.device) < 0.5
    return (box + noise * moved).clamp(0, size - 1)


def pick(region: Tensor, count: int) -> Tensor:
    """Random pixels (x, y) [n, count, 2] of each region [n, H, W]; anywhere if a region is empty."""
    width = region.shape[-1]
    score = torch.rand(len(region), region[0].numel(), device=region.device) + region.flatten(1)
    flat = score.topk(count, dim=1).indices
    return torch.stack([flat % width, flat // width], -1).float()


def some_points(full: Tensor, box: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points on the object; of several, the last is sometimes a background point near it."""
    coords, labels = pick(full, count), torch.ones(len(full), count, dtype=torch.long, device=full.device)
    if count > 1:
        grid = torch.arange(full.shape[-1], device=full.device)
        reach = 0.3 * (box[:, 1] - box[:, 0]) + 6
        low, high = box[:, 0] - reach, box[:, 1] + reach
        near_x = (grid >= low[:, :1]) & (grid <= high[:, :1])
        near_y = (grid >= low[:, 1:]) & (grid <= high[:, 1:])
        outside = near_y[:, :, None] & near_x[:, None] & ~full
        flip = torch.rand(len(full), device=full.device) < 0.4
        coords[:, -1] = torch.where(flip[:, None], pick(outside, 1)[:, 0], coords[:, -1])
        labels[:, -1] = torch.where(flip, 0, 1)
    return coords, labels


@torch.no_grad()
def corrected(coords: Tensor, labels: Tensor, before: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
    """The same points and one more at an error of the mask so far."""
    size = full.shape[-1]
    guess = F.interpolate(before, (size, size), mode="bilinear", align_corners=False)[:, 0] > 0
    wrong = guess ^ full
    wrong = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, full)
    spot = pick(wrong, 1)
    flat = (spot[:, 0, 1] * size + spot[:, 0, 0]).long()
    inside = full.flatten(1).gather(1, flat[:, None])
    return torch.cat([coords, spot], 1), torch.cat([labels, inside.long()], 1)


def padded(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The padding point that SAM adds where there is no box."""
    return torch.cat([coords, torch.zeros_like(coords[:, :1])], 1), torch.cat(
        [labels, -torch.ones_like(labels[:, :1])], 1
    )
