"""Train lavt-mini on endless procedural scenes for a fixed number of seconds, on a GPU or patiently on a CPU.

    python -m onnxptq.models.zoo.vocabulary -o build/zoo
    python -m onnxptq.models.zoo.train_lavt -o build/zoo/lavt-mini.safetensors --seconds 14400 --trunk-seconds 2400 \
        --vocab build/zoo/lavt-mini.vocab.txt --text-init build/zoo/text-init.safetensors

With `--trunk-seconds` the run starts with the auxiliary heads alone, without language: the cheapest way to good visual
features.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.models.lavt.model import LAVT
from onnxptq.models.zoo.batches import Batch, RefStream, endless
from onnxptq.models.zoo.checkpoints import freeze_dropout, load_into, save
from onnxptq.models.zoo.lavt_trainee import LavtTrainee, aux_loss, deep_loss, mask_loss
from onnxptq.models.zoo.presets import lavt_mini
from onnxptq.models.zoo.training import Clock, Ema, Log, Optimizer, arguments, prepare

SAVE_EVERY = 120.0


def main(words: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = arguments(__doc__, scenes=8, lr=8e-4, warmup=40, ema=0.996, start=0)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--text-init", type=Path, help="first layers of a text encoder, written by the vocabulary step")
    parser.add_argument("--text-lr", type=float, default=1e-4)
    parser.add_argument(
        "--trunk-seconds", type=float, default=0.0, help="first part of --seconds: visual pretraining only"
    )
    parser.add_argument("--aux", type=float, default=0.3, help="initial weight of the auxiliary losses")
    args = parser.parse_args(words)
    device, log = prepare(args), Log(args.out.with_suffix(".log.jsonl"))
    config = lavt_mini(args.size, len(WordPiece.load(args.vocab).vocab), 64)
    model, shadow = LAVT(config).to(device), LAVT(config).to(device)
    trainee = LavtTrainee(model, args.targets).to(device)
    _initialise(args, model, trainee)
    freeze_dropout(model)
    ema = Ema(model, shadow, args.ema)
    named = [(name.removeprefix("model."), parameter) for name, parameter in trainee.named_parameters()]
    optimizer = Optimizer(named, args.lr, rates={"text_encoder": args.text_lr}, fused=device.type == "cuda")
    step = torch.compile(trainee) if args.compile else trainee
    model.train()
    clock, saved = Clock(args.seconds), time.time()
    joint = Clock(args.seconds) if args.trunk_seconds <= 0 else None
    for batch in endless(RefStream(args.scenes, args.targets, args.vocab, args.start, args.size), args.workers, device):
        if joint is None and clock.elapsed >= args.trunk_seconds:
            joint = Clock(clock.end - time.time())
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            if joint is None:
                loss = _aux(trainee.look(batch["planes"]), batch)
                figures = {"trunk": loss}
                rate = min(1.0, (clock.step + 1) / args.warmup)
            else:
                loss, figures = _joint(model, step, batch, args.aux * max(0.0, 1 - 1.25 * joint.progress))
                rate = joint.rate(args.warmup)
                joint.tick()
        optimizer.step(loss, rate)
        ema.update()
        clock.tick()
        log.add(figures)
        log.flush(step=clock.step, elapsed=clock.elapsed, progress=joint.progress if joint else 0.0)
        if time.time() - saved > SAVE_EVERY:
            _save(args.out, shadow, trainee)
            saved = time.time()
        if clock.done:
            break
    _save(args.out, shadow, trainee)
    log.flush(now=True, event="finished", steps=clock.step, elapsed=clock.elapsed)


def _joint(model: LAVT, step: Callable[..., Any], batch: Batch, extra: float) -> tuple[Tensor, dict[str, Tensor]]:
    """One step with language; ``extra`` weights the auxiliary losses."""
    ids = batch["ids"].flatten(0, 1)
    longest = int((ids != 0).sum(1).max())
    ids = ids[:, :longest] if ids.device.type == "cpu" else ids
    refs = batch["target"].shape[1]
    truth = batch["idmap"].repeat_interleave(refs, 0) == batch["target"].flatten()[:, None, None]
    margin, aux_outputs, coarse = step(batch["planes"], *model.encode_text(ids, (ids != 0).long()))
    loss, iou = mask_loss(margin, truth)
    aux = _aux(aux_outputs, batch)
    deep = torch.stack([deep_loss(logits, truth) for logits in coarse]).sum()
    return loss + extra * (aux + 1.6 * deep), {"loss": loss, "aux": aux, "iou": iou}


def _aux(outputs: list[Tensor], batch: Batch) -> Tensor:
    return torch.stack(
        [aux_loss(logits, batch["idmap"], batch["attributes"], batch["place"]) for logits in outputs]
    ).sum()


def _initialise(args: argparse.Namespace, model: LAVT, trainee: LavtTrainee) -> None:
    if args.text_init:
        state = {f"text_encoder.{name}": value for name, value in load_file(args.text_init).items()}
        load_into(model, {**model.state_dict(), **state})
    if args.init:
        load_into(model, load_file(args.init))
        heads = args.init.with_suffix(".heads.safetensors")
        if heads.exists():
            trainee.load_state_dict(load_file(heads), strict=False)


def _save(path: Path, shadow: LAVT, trainee: LavtTrainee) -> None:
    """Save the averaged model, and the auxiliary heads in a file for continued training."""
    save(shadow, shadow.cfg, path)
    heads = {name: value.contiguous() for name, value in trainee.state_dict().items() if not name.startswith("model.")}
    save_file(heads, path.with_suffix(".heads.safetensors"))


if __name__ == "__main__":
    main()
