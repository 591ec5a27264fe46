"""Train sam-mini on endless procedural scenes for a fixed number of seconds, on a GPU or patiently on a CPU.

python -m onnxptq.models.zoo.train_sam -o build/zoo/sam-mini.safetensors --seconds 3600
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from onnxptq.models.sam.build import build
from onnxptq.models.zoo.batches import BoxStream, endless
from onnxptq.models.zoo.checkpoints import load_into, save
from onnxptq.models.zoo.presets import sam_mini
from onnxptq.models.zoo.sam_trainee import SamTrainee
from onnxptq.models.zoo.training import Clock, Ema, Log, Optimizer, arguments, prepare

SAVE_EVERY = 120.0


def main(words: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    args = arguments(__doc__, scenes=6, lr=6e-4, warmup=30, ema=0.995, start=1_000_000_000).parse_args(words)
    device, log = prepare(args), Log(args.out.with_suffix(".log.jsonl"))
    config = sam_mini(args.size)
    sam, shadow = build(config).to(device), build(config).to(device)
    initialise(sam)
    if args.init:
        load_into(sam, load_file(args.init))
    ema, trainee = Ema(sam, shadow, args.ema), SamTrainee(sam.train(), compiled=args.compile)
    optimizer = Optimizer(sam.named_parameters(), args.lr, fused=device.type == "cuda")
    rng, saved = np.random.RandomState(args.start % 2**32), time.time()
    clock = Clock(args.seconds)
    for batch in endless(BoxStream(args.scenes, args.targets, args.start, args.size), args.workers, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, ious = trainee(batch, int(rng.choice((1, 1, 2, 3))))
        optimizer.step(loss, clock.rate(args.warmup))
        ema.update()
        clock.tick()
        log.add({"loss": loss, **ious})
        log.flush(step=clock.step, elapsed=clock.elapsed, progress=clock.progress)
        if time.time() - saved > SAVE_EVERY:
            save(shadow, config, args.out)
            saved = time.time()
        if clock.done:
            break
    save(shadow, config, args.out)
    log.flush(now=True, event="finished", steps=clock.step, elapsed=clock.elapsed)


def initialise(sam: nn.Module) -> None:
    """ViT's initialisation of the encoder; the package leaves torch's default."""
    for name, module in sam.named_modules():
        if name.startswith("image_encoder") and isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for name, parameter in sam.named_parameters():
        if name == "image_encoder.pos_embed":
            nn.init.trunc_normal_(parameter, std=0.02)


if __name__ == "__main__":
    main()
