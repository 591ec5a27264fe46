"""Learning of one unit: Adam on the rounding of its weights and on the scales of its activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxptq.calibration.edges import Edge
from onnxptq.learn.coding import Coding, Hook
from onnxptq.learn.rounding import Rounding, beta, regulariser
from onnxptq.learn.streams import Stream
from onnxptq.learn.units import Unit
from onnxptq.ops.uniform import SMALLEST


@dataclass(frozen=True)
class Settings:
    """How a unit is learned. Defaults are those of the papers where they agree."""

    blocks: bool = True
    """Whether a unit is a block or a single layer."""
    joint: bool = True
    """Whether scales are learned with the rounding; if not, after it, in a quarter of the iterations."""
    iterations: int = 20000
    lr: float = 1e-3
    """Of the rounding."""
    scale_lr: float = 4e-5
    """Of scales of activations; 0 leaves them as found."""
    drop: float = 0.0
    """Share of the elements of inputs and of activations that stay float in an iteration."""
    weight: float = 0.01
    """Weight of the regulariser."""
    normalised: bool = False
    """Whether the loss is divided by the mean square of the output, so that all units weigh the same."""
    batch: int = 1
    """Samples an iteration."""
    held_back: float = 0.125
    """Share of the samples on which a unit must be better than rounding to nearest, or it falls back to that."""


@dataclass(frozen=True)
class Layer:
    """A weight to learn: the layer's node, its constant, its output after the bias, and the grid."""

    node: str
    weight: str
    output: str
    values: NDArray[np.float32]
    scale: NDArray[np.float32]
    """In a shape that broadcasts against the weight."""
    zero: NDArray[np.uint8]
    bits: int


@dataclass(frozen=True)
class Found:
    """The result for a unit: weights by node on their grid, new scales by site key, and losses on samples held back."""

    weights: Mapping[str, NDArray[np.float32]]
    scales: Mapping[str, float]
    before: float
    after: float


@dataclass(frozen=True)
class Activation:
    """A quantized activation: its edge, the node that reads it, and the parameters of its scheme."""

    edge: Edge
    consumer: str
    params: object


class Learner:
    """Learns one unit."""

    def __init__(
        self,
        unit: Unit,
        layers: Sequence[Layer],
        activations: Mapping[str, Activation],
        settings: Settings,
        generator: torch.Generator,
        device: str,
    ) -> None:
        self.unit, self.settings, self.generator = unit, settings, generator
        self.device = torch.device(device)
        self.roundings = {one.node: Rounding(one.values, one.scale, one.zero, one.bits, self.device) for one in layers}
        self._weights = {one.node: one.weight for one in layers}
        self.codings = {key: Coding(one.params, self.device) for key, one in activations.items()}
        self._edges = {key: one.edge for key, one in activations.items()}
        self._start = {key: float(coding.scale) for key, coding in self.codings.items() if coding.scale is not None}

    def run(self, floats: Stream, codes: Stream) -> Found:
        """Learn on the first samples; fall back to the start if the others do not profit."""
        count = floats.count
        kept = max(1, round(count * self.settings.held_back)) if count > 1 else 0
        train, held = range(count - kept), range(count - kept, count) if kept else range(count)
        start = {name: one.hard() for name, one in self.roundings.items()}
        before = self._loss_on(held, floats, codes, start)
        if self.settings.joint:
            self._optimise(train, floats, codes, rounding=True, scales=True, drop=self.settings.drop)
        else:
            self._optimise(train, floats, codes, rounding=True, scales=False, drop=1.0)
            self._optimise(train, floats, codes, rounding=False, scales=True, drop=self.settings.drop)
        end = {name: one.hard() for name, one in self.roundings.items()}
        after = self._loss_on(held, floats, codes, end)
        if not after < before:
            for key, scale in self._start.items():
                self.codings[key].scale = torch.tensor(scale, device=self.device)
            end = start
        scales = {key: float(c.scale) for key, c in self.codings.items() if c.scale is not None}
        return Found(
            {name: value.cpu().numpy() for name, value in end.items()},
            {key: scale for key, scale in scales.items() if scale != self._start[key]},
            before,
            after,
        )

    def _optimise(
        self, samples: Sequence[int], floats: Stream, codes: Stream, *, rounding: bool, scales: bool, drop: float
    ) -> None:
        """Adam on the rounding, on the scales of activations, or on both."""
        s = self.settings
        alphas = [one.alpha for one in self.roundings.values()] if rounding else []
        sizes = [c.scale.requires_grad_() for c in self.codings.values() if c.scale is not None]
        sizes = sizes if scales and s.scale_lr else []
        if not (alphas or sizes):
            return
        groups = [{"params": alphas, "lr": s.lr}] * bool(alphas) + [{"params": sizes, "lr": s.scale_lr}] * bool(sizes)
        adam = torch.optim.Adam(groups)
        count = s.iterations if rounding else max(1, s.iterations // 4)
        fixed = {name: one.hard() for name, one in self.roundings.items()}
        for iteration in range(count):
            picked = torch.randint(len(samples), (s.batch,), generator=self.generator, device=self.device).tolist()
            adam.zero_grad()
            for index in picked:
                weights = {name: one.soft() for name, one in self.roundings.items()} if rounding else fixed
                loss = self._loss(samples[index], floats, codes, weights, drop=drop)
                (loss / s.batch).backward()  # type: ignore[no-untyped-call]
            exponent = beta(iteration, count)
            if exponent is not None and alphas:
                pull = s.weight * torch.stack([regulariser(alpha, exponent) for alpha in alphas]).sum()
                pull.backward()  # type: ignore[no-untyped-call]
            if sizes:
                adam.param_groups[-1]["lr"] = s.scale_lr * (1 + math.cos(math.pi * iteration / count)) / 2
            adam.step()
            with torch.no_grad():
                for size in sizes:
                    size.clamp_(min=SMALLEST)
        for coding in self.codings.values():
            coding.settle()

    def _loss(
        self, index: int, floats: Stream, codes: Stream, weights: Mapping[str, Tensor], *, drop: float = 0.0
    ) -> Tensor:
        """Squared error of the unit's output for one sample: summed over dimension 1, averaged over the rest.

        ``drop`` is the share of elements of inputs and activations that stay float.
        """
        target = floats.at(index, [self.unit.output])[self.unit.output]
        feeds = codes.at(index, self.unit.inputs)
        if 0 < drop < 1:
            plain = floats.at(index, self.unit.inputs)
            for name, x in feeds.items():
                if x.is_floating_point() and plain[name].shape == x.shape:
                    feeds[name] = torch.where(self._mask(x, drop), plain[name], x)
        seen: dict[str, Tensor] = {}
        hooks: dict[str, Hook] = {}
        for key, coding in self.codings.items():
            hooks |= coding.hooks(self._edges[key], seen, partial(self._mask, drop=drop) if drop else None)
        named = {self._weights[name]: value for name, value in weights.items()}
        made = codes.executor({**feeds, **named}, [self.unit.output], hooks=hooks)[self.unit.output]
        error = (made - target).square()
        loss = error.sum(1).mean() if error.ndim > 1 else error.mean()
        if self.settings.normalised:
            loss = loss / target.square().mean().clamp(min=SMALLEST)
        return loss

    def _loss_on(self, samples: Sequence[int], floats: Stream, codes: Stream, weights: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            return float(np.mean([float(self._loss(index, floats, codes, weights)) for index in samples]))

    def _mask(self, x: Tensor, drop: float) -> Tensor:
        """A mask of the elements that stay float."""
        if drop >= 1:
            return torch.ones(x.shape, dtype=torch.bool, device=self.device)
        return torch.rand(x.shape, generator=self.generator, device=self.device) < drop
