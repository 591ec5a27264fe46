"""Reconstruction: learn the rounding of weights, and scales of activations, unit by unit against the original model.

AdaRound learns one layer at a time, BRECQ a block, QDrop a block with parts of its inputs and activations left float
at random. Each unit reads what the quantized units before it make, and is compared with the original's output on the
original's inputs. At the end every weight is on its grid and nothing is random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from onnxptq import machine
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress, Silent
from onnxptq.calibration.shelf import Shelf
from onnxptq.calibration.sources.source import Source
from onnxptq.learn.coding import Coding
from onnxptq.learn.learner import Activation, Found, Layer, Learner, Settings
from onnxptq.learn.streams import Stream
from onnxptq.learn.units import Parts, Unit

Array = NDArray[Any]
WALK = 900
"""The number of learning in a checkpoint, after all walks of calibration."""


class Reconstruction:
    """Learns all layers of a model, one unit after the other."""

    def __init__(
        self,
        original: onnx.ModelProto,
        edged: onnx.ModelProto,
        layers: Sequence[Layer],
        activations: Mapping[str, Activation],
        settings: Settings,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, device
        self._layers = {layer.node: layer for layer in layers}
        self._activations = activations
        parts = Parts(original, {layer.node: layer.output for layer in layers})
        self.units = parts.blocks() if settings.blocks else parts.single()
        self._protos = original, edged

    def run(
        self,
        source: Source,
        *,
        threads: int | None = None,
        memory_limit: int | None = None,
        checkpoint: Checkpoint | None = None,
        progress: Progress | None = None,
    ) -> dict[Unit, Found]:
        """The result of every unit."""
        mark = repr((self.settings, self.seed, [(unit.layers, unit.output) for unit in self.units]))
        state = checkpoint.load(WALK, mark) if checkpoint is not None else None
        known = [_loaded(arrays) for arrays in state.arrays] if state is not None else []
        found: dict[Unit, Found] = {}
        with _threads(threads), Shelf(memory_limit if memory_limit is not None else machine.available() // 4) as shelf:
            floats, codes = (
                Stream(name, proto, len(source), shelf, self.device)
                for name, proto in zip(("original", "quantized"), self._protos, strict=True)
            )
            for index, sample in enumerate(source):
                floats.start(index, sample)
                codes.start(index, sample)
            with (progress or Silent()).task("learning", len(self.units)) as step:
                for number, unit in enumerate(self.units):
                    rest = self.units[number:]
                    floats.advance(
                        [*unit.inputs, unit.output], [name for one in rest for name in (*one.inputs, one.output)]
                    )
                    codes.advance(unit.inputs, [name for one in rest for name in one.inputs])
                    found[unit] = known[number] if number < len(known) else self._learn(number, floats, codes)
                    self._settle(unit, found[unit], codes)
                    if checkpoint is not None and checkpoint.due():
                        checkpoint.save(WALK, mark, [1] * len(found), [_saved(one) for one in found.values()])
                    step()
        return found

    def _learn(self, number: int, floats: Stream, codes: Stream) -> Found:
        unit = self.units[number]
        generator = torch.Generator(device=self.device).manual_seed(self.seed * 1_000_003 + number)
        inside = {key: one for key, one in self._activations.items() if one.consumer in unit.nodes}
        layers = [self._layers[name] for name in unit.layers]
        return Learner(unit, layers, inside, self.settings, generator, self.device).run(floats, codes)

    def _settle(self, unit: Unit, found: Found, codes: Stream) -> None:
        """Let the quantized stream go on with the unit as it was learned."""
        for name, value in found.weights.items():
            codes.weights[self._layers[name].weight] = torch.from_numpy(value).to(self.device)
        for key, scale in found.scales.items():
            one = self._activations[key]
            coding = Coding(one.params, torch.device(self.device))
            coding.scale = torch.tensor(scale, device=self.device)
            codes.hooks |= coding.hooks(one.edge, codes.seen)


def _saved(found: Found) -> dict[str, Array]:
    scales = {f"scale {key}": np.asarray(value) for key, value in found.scales.items()}
    weights = {f"weight {name}": value for name, value in found.weights.items()}
    return {**weights, **scales, "losses": np.array([found.before, found.after])}


def _loaded(arrays: Mapping[str, Array]) -> Found:
    weights = {key.removeprefix("weight "): value for key, value in arrays.items() if key.startswith("weight ")}
    scales = {key.removeprefix("scale "): float(v) for key, v in arrays.items() if key.startswith("scale ")}
    before, after = arrays["losses"].tolist()
    return Found(weights, scales, before, after)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's threads for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
