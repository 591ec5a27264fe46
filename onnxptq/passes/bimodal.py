"""bimodal: keys with two modes are mirrored into one (Bimodal Integration of PTQ4SAM, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import Request
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.density import POINTS, Densities, peaks
from onnxptq.passes.linears import operand, scale_output, unmatched
from onnxptq.structure import Attention, Source, Structure


class Bimodal(Pass):
    """Where the density of keys has exactly two peaks, negate key channels of negative mean, and the queries' alike.

    1. Scores stay: sign times sign is one. A mean of zero counts as positive; a sign of zero would erase the channel.
    2. Queries and keys are outputs of one linear each, and nothing else reads those channels. (In SAM's encoder
       relative position reads the queries, and all heads share one table: the fold would not be exact.)
    3. As published: token-to-image attention only, first prompt of the first image. More images vote by majority.
    """

    name = "bimodal"
    options: ClassVar[Mapping[str, Any]] = {"scope": "token_to_image", "images": 1}
    """``scope``: attentions to examine. ``images``: number of first samples that vote."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scope": ("token_to_image", "all")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"images": (1, 1e6)}
    reads = frozenset({"key"})
    moves = frozenset({"key", "query"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        scope = {n: a for n, a in structure.attentions.items() if a.token_to_image or options["scope"] == "all"}
        found = {name: _pair(model, structure, attention) for name, attention in scope.items()}
        legal = {name: pair for name, pair in found.items() if isinstance(pair, tuple)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        images = options["images"]
        filled = yield {
            name: Request(
                structure.linears[k.linear].output,
                Densities(images, np.unique(k.channels), prompt=scope[name].token_to_image),
                samples=images,
            )
            for name, (_, k) in legal.items()
        }
        for name, (q, k) in legal.items():
            changes.append(self._mirror(model, structure, name, q, k, cast(Densities, filled[name])))
        return changes

    def _mirror(self, model: Model, structure: Structure, name: str, q: Source, k: Source, seen: Densities) -> Change:
        places = [peaks(curve) for curve in seen.curves]
        votes = [len(place) == 2 for place in places]
        where = [
            np.linspace(low, high, POINTS)[place].tolist()
            for place, (low, high) in zip(places, seen.ranges, strict=True)
        ]
        data = {"ranges": seen.ranges.tolist(), "densities": seen.curves.tolist(), "peaks": where, "bimodal": votes}
        if not votes:
            return Change(self.name, name, "left alone: no keys were seen", done=False, data=data)
        verdict = f"peaks of the keys at {', '.join(f'{p:.3g}' for p in where[0]) or 'none'}"
        if len(votes) > 1:
            verdict += f", {sum(votes)} of {len(votes)} images bimodal"
        if 2 * sum(votes) <= len(votes):
            return Change(self.name, name, f"left alone: {verdict}: not bimodal", done=False, data=data)
        maker, asker = structure.linears[k.linear], structure.linears[q.linear]
        sign = np.ones(maker.outputs)
        sign[np.unique(k.channels)] = np.where(seen.means.mean(axis=0) >= 0, 1, -1)
        if (sign > 0).all():
            return Change(
                self.name,
                name,
                f"left alone: {verdict}: bimodal, but no channel's mean is negative",
                done=False,
                data=data,
            )
        asked = np.ones(asker.outputs)
        asked[q.channels] = sign[k.channels]
        scale_output(model, maker, sign)
        scale_output(model, asker, asked)
        turned = int((sign < 0).sum())
        what = (
            f"{verdict}: bimodal; {turned} of {seen.means.shape[1]} channels of {maker.name} and {asker.name} mirrored"
        )
        return Change(self.name, name, what, data=data | {"mirrored": np.flatnonzero(sign < 0).tolist()})


def _pair(model: Model, structure: Structure, attention: Attention) -> tuple[Source, Source] | str:
    """The sources of queries and keys, or why they cannot be mirrored."""
    k = operand(model, structure, attention, "k", zeros=True)
    q = operand(model, structure, attention, "q", zeros=True)
    if isinstance(k, str) or isinstance(q, str):
        return k if isinstance(k, str) else str(q)
    return unmatched(q, k) or (q, k)
