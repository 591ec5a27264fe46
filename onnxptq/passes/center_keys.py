"""center-keys: softmax(q . (k - c) + b) = softmax(q . k + b), so key channels can be centred on zero for free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import operand, shift_output
from onnxptq.passes.spread import Spread, ask
from onnxptq.structure import Attention, Source, Structure


class CenterKeys(Pass):
    """Subtract each key channel's centre from the bias of the linear that produces the keys.

    q . c is one number for all keys of a row, and a softmax ignores a constant added to its whole row. Tokens that
    pad a window are zeros before the linear, so their keys carry the bias too, and lose the same c.

    1. Every key is an output of one linear, and nothing else reads those channels.
    2. The scores go to the softmax alone.
    """

    name = "center-keys"
    options: ClassVar[Mapping[str, Any]] = {"centre": "range", "quantile": 0.002}
    """``centre``: the middle of the range from ``quantile`` to 1 - ``quantile``, or the mean.

    The mean can widen a skewed channel.
    """
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"centre": ("range", "mean")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"quantile": (0, 0.49)}
    reads = moves = frozenset({"key"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        found = {name: _keys(model, structure, attention) for name, attention in structure.attentions.items()}
        legal = {name: source for name, source in found.items() if isinstance(source, Source)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {name: ask(structure.linears[source.linear].output) for name, source in legal.items()}
        for name, source in legal.items():
            linear, channels = structure.linears[source.linear], np.unique(source.channels)
            spread = Spread.of(filled[name], options["quantile"], channels)
            if spread is None or not (centre := spread.centre(options["centre"])).any():
                changes.append(self.left(name, "its keys are centred"))
                continue
            shift = np.zeros(linear.outputs)
            shift[channels] = -centre
            shift_output(model, linear, shift)
            before = f"{spread.low.min():.3g} .. {spread.high.max():.3g}"
            after = f"{(spread.low - centre).min():.3g} .. {(spread.high - centre).max():.3g}"
            data = {"centre": centre.tolist(), "low": spread.low.tolist(), "high": spread.high.tolist()}
            changes.append(
                Change(
                    self.name, name, f"keys centred in the bias of {linear.name}: {before} became {after}", data=data
                )
            )
        return changes


def _keys(model: Model, structure: Structure, attention: Attention) -> Source | str:
    """The source of the keys, or the violated rule of the class."""
    if not attention.fusable:
        return "its scores go elsewhere than straight to the softmax"
    return operand(model, structure, attention, "k")
