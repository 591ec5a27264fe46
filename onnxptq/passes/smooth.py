"""smooth: divide outlier channels of a LayerNormalization's output, and multiply its linears (SmoothQuant)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.norms import Reading, fold, readings
from onnxptq.structure import Structure


class Smooth(Pass):
    """Divide channel j by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), w over all linears (SmoothQuant, equation 4).

    1. The LayerNormalization's output goes to linears alone, channels in order. Models that also add it to another
       tensor (post-norm text encoders) cannot be changed.
    2. Zeros that pad a window stay zeros, so padding is harmless.
    """

    name = "smooth"
    options: ClassVar[Mapping[str, Any]] = {"alpha": 0.5}
    """Share of the difficulty moved from the activations to the weights, 0 to 1."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0, 1)}
    reads = moves = frozenset({"norm"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        found = readings(model, structure)
        legal = {name: read for name, read in found.items() if isinstance(read, Reading)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {name: Request(read.output, Range(axis=-1)) for name, read in legal.items()}
        for name, read in legal.items():
            seen = cast(Range, filled[name])
            if not seen.count:
                changes.append(self.left(name, "no tokens were seen"))
                continue
            inputs = np.maximum(np.abs(seen.low), np.abs(seen.high))
            weights = np.abs(read.columns(model)).max(axis=1)
            alive = (inputs > 0) & (weights > 0)
            factor = np.ones(len(inputs))
            factor[alive] = inputs[alive] ** options["alpha"] / weights[alive] ** (1 - options["alpha"])
            fold(model, read, factor, np.zeros(len(inputs)))
            became = f"largest {inputs.max():.3g} became {(inputs / factor).max():.3g}"
            what = (
                f"channels divided by {factor.min():.3g} .. {factor.max():.3g} for {len(read.linears)} "
                f"linears: {became}"
            )
            changes.append(Change(self.name, name, what, data={"factors": factor.tolist()}))
        return changes
