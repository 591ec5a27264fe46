"""Shared by both trainings: a schedule in wall time, averaged weights, parameter groups, a log."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Clock:
    """Progress measured in wall time, so that a run always finishes its schedule in its slot.

    The schedule starts with the third step: compilation is over then.
    """

    def __init__(self, seconds: float) -> None:
        self.begin = time.time()
        self.end = self.begin + seconds
        self.step = 0
        self._first: float | None = None

    def tick(self) -> None:
        """Count a step."""
        self.step += 1
        if self._first is None and self.step >= 3:
            self._first = time.time()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.time() - self.begin

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the deadline."""
        if self._first is None:
            return 0.0
        return min(1.0, (time.time() - self._first) / max(1.0, self.end - self._first))

    @property
    def done(self) -> bool:
        """True once the time is over."""
        return time.time() >= self.end

    def rate(self, warmup: int, floor: float = 0.01) -> float:
        """Factor of the learning rate: linear warm-up in steps, then a cosine."""
        warm = min(1.0, (self.step + 1) / warmup)
        return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))


class Ema:
    """Exponential moving average of parameters and float buffers, kept in a second model."""

    def __init__(self, model: nn.Module, shadow: nn.Module, decay: float) -> None:
        self.decay, self.steps, self.shadow = decay, 0, shadow.eval()
        shadow.load_state_dict(model.state_dict())
        self._pairs = _floats(shadow), _floats(model)

    @torch.no_grad()
    def update(self) -> None:
        """Average one step in; the first steps count more."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (20 + self.steps))
        torch._foreach_lerp_(*self._pairs, 1 - decay)


def _floats(model: nn.Module) -> list[Tensor]:
    return [t.detach() for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]


class Optimizer:
    """AdamW with a learning rate by name prefix, and no decay for vectors and embeddings."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        rate: float,
        *,
        rates: Mapping[str, float] | None = None,
        fused: bool = False,
    ) -> None:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in named:
            own = next((value for prefix, value in (rates or {}).items() if name.startswith(prefix)), None)
            plain = parameter.ndim <= 1 or any(part in name for part in ("embed", "bias_table", "token", "rel_pos"))
            # Layers with their own rate are pretrained: unused parts must stay unchanged.
            decay = 0.0 if plain or own is not None else 0.05
            groups.setdefault((rate if own is None else own, decay), []).append(parameter)
        self._parameters = [p for group in groups.values() for p in group]
        self._inner = torch.optim.AdamW(
            [{"params": p, "lr": lr, "base": lr, "weight_decay": decay} for (lr, decay), p in groups.items()],
            betas=(0.9, 0.98),
            fused=fused,
        )

    def step(self, loss: Tensor, factor: float) -> None:
        """Gradients, clipped to norm 1, and one update at ``factor`` of the learning rates."""
        for group in self._inner.param_groups:
            group["lr"] = group["base"] * factor
        self._inner.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._inner.step()


class Log:
    """JSON lines to a file and to the terminal; running means between them."""

    def __init__(self, path: Path, every: float = 15.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._sums: dict[str, list[Tensor]] = {}
        self._every, self._last = every, time.time()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Figures of one step."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value.detach().float().mean())

    def flush(self, *, now: bool = False, **more: Any) -> None:
        """Write a line, if it is time for one."""
        if not now and time.time() - self._last < self._every:
            return
        means = {name: round(float(torch.stack(values).mean()), 4) for name, values in self._sums.items()}
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in more.items()}
        line = json.dumps(rounded | means)
        self._file.write(line + "\n")
        self._file.flush()
        print(line, flush=True)
        self._sums.clear()
        self._last = time.time()


def arguments(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options of both trainings."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="checkpoint to write, NAME.safetensors")
    parser.add_argument("--init", type=Path, help="checkpoint to continue from")
    parser.add_argument(
        "--seconds", type=float, required=True, help="length of the run; the learning rate falls to zero over it"
    )
    parser.add_argument("--size", type=int, choices=(128, 256), default=128, help="128 pixels for a CPU, 256 for a GPU")
    parser.add_argument("--scenes", type=int, default=defaults["scenes"], help="scenes a step")
    parser.add_argument("--targets", type=int, default=4, help="objects or expressions a scene")
    parser.add_argument("--lr", type=float, default=defaults["lr"])
    parser.add_argument("--warmup", type=int, default=defaults["warmup"], help="steps")
    parser.add_argument("--ema", type=float, default=defaults["ema"], help="decay of the averaged weights")
    parser.add_argument("--start", type=int, default=defaults["start"], help="first scene of the train split")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--threads", type=int, default=1, help="threads of this process")
    parser.add_argument("--compile", action="store_true", help="torch.compile, worth it on a GPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def prepare(args: argparse.Namespace) -> torch.device:
    """Seeds, threads and precision."""
    torch.manual_seed(args.start)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    return torch.device(args.device)
