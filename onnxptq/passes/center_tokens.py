"""center-tokens: InstanceNormalization removes token means, so the linear before it can read centred inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.edit import only_reader, position
from onnxptq.graph.model import Model
from onnxptq.passes.base import Change, Pass
from onnxptq.structure import Structure


class CenterTokens(Pass):
    """Replace W x + b by W (x - mean x) before an InstanceNormalization; codes of x - mean x need not span the mean.

    The two differ by a constant for all tokens of a sample.

    1. The linear's output [B, N, C] is transposed to [B, C, N], and an InstanceNormalization alone reads that.
    """

    name = "center-tokens"
    restructures = True

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> list[Change]:
        """See the class."""
        changes = []
        for linear in structure.linears.values():
            swap = only_reader(model.tensor(linear.output), model)
            if swap is None or swap.op != "Transpose" or swap.attrs.get("perm") != [0, 2, 1]:
                continue
            norm = only_reader(swap.outputs[0], model)
            if norm is not None and norm.op == "InstanceNormalization":
                _center(model, model.nodes()[linear.name])
                changes.append(
                    Change(
                        self.name, linear.name, f"its input without its mean over tokens, as {norm.name} is behind it"
                    )
                )
        return changes


def _center(model: Model, product: gs.Node) -> None:
    x = product.inputs[0]
    mean, centred = (gs.Variable(model.unique(f"{product.name}_{what}"), dtype=x.dtype) for what in ("mean", "centred"))
    axes = gs.Constant(model.unique(f"{product.name}_axes"), np.array([1], np.int64))
    place = position(model, product)
    model.graph.nodes[place:place] = [
        gs.Node("ReduceMean", model.unique(f"{product.name}_mean"), {"keepdims": 1}, [x, axes], [mean]),
        gs.Node("Sub", model.unique(f"{product.name}_centred"), {}, [x, mean], [centred]),
    ]
    centred.shape = x.shape
    product.inputs[0] = centred
