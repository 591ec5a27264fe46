"""center-values: softmax rows sum to 1, so A V = A (V - 1c') + 1c', and the output projection can absorb c."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import obstacle, operand, shift_output, weight
from onnxptq.passes.spread import Spread, ask
from onnxptq.structure import Attention, Linear, Source, Structure


@dataclass(frozen=True)
class _Fold:
    attention: Attention
    source: Source
    maker: Linear
    projection: Linear


class CenterValues(Pass):
    """Subtract each value channel's centre from the values' bias, and add it back through the projection.

    1. Every value is an output of one linear, and nothing else reads those channels.
    2. The probabilities are the softmax's own output: rows zeroed afterwards (fully masked ones) do not sum to 1.
    3. The output goes to one linear and nowhere else, with nothing but copies between.
    """

    name = "center-values"
    options: ClassVar[Mapping[str, Any]] = {"centre": "range", "quantile": 0.002}
    """``centre``: the middle of the range from ``quantile`` to 1 - ``quantile``, or the mean."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"centre": ("range", "mean")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"quantile": (0, 0.49)}
    reads = moves = frozenset({"value"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        found = {name: _values(model, structure, attention) for name, attention in structure.attentions.items()}
        legal = {name: fold for name, fold in found.items() if isinstance(fold, _Fold)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {name: ask(fold.maker.output) for name, fold in legal.items()}
        for name, fold in legal.items():
            channels = np.unique(fold.source.channels)
            spread = Spread.of(filled[name], options["quantile"], channels)
            if spread is None or not spread.centre(options["centre"]).any():
                changes.append(self.left(name, "its values are centred"))
                continue
            centre = np.zeros(fold.maker.outputs)
            centre[channels] = spread.centre(options["centre"])
            carried = np.zeros(fold.projection.inputs)
            carried[np.asarray(fold.attention.o_channels)] = centre[fold.source.channels]
            shift_output(model, fold.maker, -centre)
            shift_output(model, fold.projection, carried @ weight(model, fold.projection))
            what = (
                f"values centred, from the bias of {fold.maker.name} to that of {fold.projection.name}: "
                f"by up to {np.abs(centre).max():.3g}"
            )
            data = {"centre": centre[channels].tolist(), "low": spread.low.tolist(), "high": spread.high.tolist()}
            changes.append(Change(self.name, name, what, data=data))
        return changes


def _values(model: Model, structure: Structure, attention: Attention) -> _Fold | str:
    """The tensors of the fold, or the violated rule of the class."""
    source = operand(model, structure, attention, "v")
    if isinstance(source, str):
        return source
    makers = model.tensor(attention.probabilities).inputs
    if (
        not makers
        or makers[0].name != attention.name
        or not any(tensor.name == attention.probabilities for tensor in model.nodes()[attention.av].inputs)
    ):
        return "its probabilities are changed behind the softmax, so that rows need not sum to 1"
    if attention.o_linear is None or attention.o_channels is None:
        return "no linear alone reads its output"
    projection = structure.linears[attention.o_linear]
    why = obstacle(model, attention.output, projection.input, zeros=False)
    return why or _Fold(attention, source, structure.linears[source.linear], projection)
