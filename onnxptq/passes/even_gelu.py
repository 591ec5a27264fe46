"""even-gelu: one multiplication in front of a linear lets one static scale fit all channels of a GELU's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.graph.edit import position
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import scale_input, weight
from onnxptq.structure import Role, Structure

F64 = NDArray[np.float64]
LIMIT = 20.0
"""Maximum factor of a channel, and inverse of the minimum."""


class EvenGelu(Pass):
    """Divide channel j of a linear's input by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) where it is a GELU's output.

    No weight in front can take the factor, since a GELU lies between, so the division is a node of its own. It pays
    where codes are static: in text encoders a few channels are ten times as large as the others.
    """

    name = "even-gelu"
    options: ClassVar[Mapping[str, Any]] = {"alpha": 0.75}
    """Share of the difficulty moved from the activations to the weights, 0 to 1."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0, 1)}

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        sites = [one for one in structure.sites if one.role is Role.GELU and one.consumer in structure.linears]
        filled = yield {one.consumer: Request(one.tensor, Range(axis=-1)) for one in sites}
        changes = []
        for site in sites:
            seen, linear = cast(Range, filled[site.consumer]), structure.linears[site.consumer]
            if not seen.count:
                changes.append(self.left(site.consumer, "no values were seen"))
                continue
            factor = factors(
                np.maximum(np.abs(seen.low), np.abs(seen.high)), np.abs(weight(model, linear)).max(axis=1), **options
            )
            _divide(model, model.nodes()[linear.name], factor)
            scale_input(model, linear, factor)
            what = f"channels divided by {factor.min():.3g} .. {factor.max():.3g}"
            changes.append(Change(self.name, linear.name, what, data={"factors": factor.tolist()}))
        return changes


def factors(inputs: F64, weights: F64, alpha: float) -> F64:
    """The factors of channels with these largest inputs and weights; their geometric mean is 1."""
    alive = (inputs > 0) & (weights > 0)
    found = np.ones(len(inputs))
    found[alive] = inputs[alive] ** alpha / weights[alive] ** (1 - alpha)
    found[alive] /= np.exp(np.log(found[alive]).mean()) if alive.any() else 1.0
    return np.clip(found, 1 / LIMIT, LIMIT)


def _divide(model: Model, product: gs.Node, factor: F64) -> None:
    x = product.inputs[0]
    even = gs.Variable(model.unique(f"{product.name}_even"), dtype=x.dtype, shape=x.shape)
    inverse = gs.Constant(model.unique(f"{product.name}_factors"), (1 / factor).astype(x.dtype or np.float32))
    node = gs.Node("Mul", model.unique(f"{product.name}_divided"), inputs=[x, inverse], outputs=[even])
    model.graph.nodes.insert(position(model, product), node)
    product.inputs[0] = even
