"""mix-values: P v W = P (v A) (inv(A) W) for any matrix A of each head: values and projection share the difficulty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import obstacle, operand, weight
from onnxptq.passes.mixing import I64, balancing, mix_inputs, mix_outputs, moment, repeated
from onnxptq.passes.spread import ask
from onnxptq.structure import Attention, Linear, Source, Structure


@dataclass(frozen=True)
class _Fold:
    source: Source
    maker: Linear
    projection: Linear
    places: I64


class MixValues(Pass):
    """Multiply each head's values by A in their linear, and the projection's weight by the inverse of A.

    A is the geometric mean of the inverse of the values' second moments and of the projection's weights', times a
    Hadamard matrix with random signs: then the error of quantized values weighs the same in every channel.

    1. Every value is an output of one linear, nothing else reads those channels, and no two heads share any.
    2. The output goes to one linear and nowhere else, with nothing but copies between.
    """

    name = "mix-values"
    options: ClassVar[Mapping[str, Any]] = {"ridge": 1e-2, "scope": "fused"}
    """``ridge``: share of the mean second moment that is added to each.

    ``scope``: attentions with keys and values of one linear, or all.
    """
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scope": ("fused", "all")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"ridge": (1e-9, 1.0)}
    reads = moves = frozenset({"value"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        found = {
            name: _values(model, structure, attention, options["scope"])
            for name, attention in structure.attentions.items()
        }
        legal = {name: fold for name, fold in found.items() if isinstance(fold, _Fold)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {name: ask(fold.maker.output) for name, fold in legal.items()}
        for name, fold in legal.items():
            rows = cast(RowSample, filled[name]).sample.astype(np.float64)
            if not rows.size:
                changes.append(self.left(name, "no tokens were seen"))
                continue
            held, ridge = weight(model, fold.projection), options["ridge"]
            matrices = np.stack(
                [
                    balancing(moment(rows[:, made], ridge), moment(held[read].T, ridge))
                    for made, read in zip(fold.source.channels, fold.places, strict=True)
                ]
            )
            mix_outputs(model, fold.maker, fold.source.channels, matrices)
            mix_inputs(model, fold.projection, fold.places, np.asarray(np.linalg.inv(matrices), np.float64))
            what = (
                f"channels of {fold.maker.name} mixed within {len(matrices)} heads, and inputs of "
                f"{fold.projection.name} back"
            )
            changes.append(Change(self.name, name, what))
        return changes


def _values(model: Model, structure: Structure, attention: Attention, scope: str) -> _Fold | str:
    """The tensors of the fold, or the violated rule of the class."""
    source = operand(model, structure, attention, "v", zeros=True)
    if isinstance(source, str):
        return source
    if scope == "fused" and (attention.k_source is None or attention.k_source.linear != source.linear):
        return "two linears make its keys and values (scope: fused)"
    if repeated(source.channels):
        return "heads share values"
    if attention.o_linear is None or attention.o_channels is None:
        return "no linear alone reads its output"
    projection = structure.linears[attention.o_linear]
    why = obstacle(model, attention.output, projection.input, zeros=True)
    return why or _Fold(source, structure.linears[source.linear], projection, attention.o_channels)
