"""balance-qk: q . k = (q d) . (k / d) for any factor of each channel, so both can have equal ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import operand, scale_output, unmatched
from onnxptq.passes.spread import Spread, ask
from onnxptq.structure import Attention, Source, Structure


class BalanceQueriesKeys(Pass):
    """Scale each channel of queries and keys to the geometric mean of their ranges, in the linears that produce them.

    1. Queries and keys are outputs of one linear each, and nothing else reads those channels.
    2. A key channel shared by several heads takes the widest range of its queries.
    """

    name = "balance-qk"
    options: ClassVar[Mapping[str, Any]] = {"quantile": 0.002, "limit": 20.0}
    """``quantile``: ranges are from ``quantile`` to 1 - ``quantile``. ``limit``: factors are in [1 / limit, limit]."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"quantile": (0, 0.49), "limit": (1, 1e6)}
    reads = moves = frozenset({"query", "key"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        found = {name: _pair(model, structure, attention) for name, attention in structure.attentions.items()}
        legal = {name: pair for name, pair in found.items() if isinstance(pair, tuple)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {
            f"{name}:{which}": ask(structure.linears[source.linear].output)
            for name, pair in legal.items()
            for which, source in zip("qk", pair, strict=True)
        }
        for name, (q, k) in legal.items():
            asker, maker = structure.linears[q.linear], structure.linears[k.linear]
            queries = Spread.of(filled[f"{name}:q"], options["quantile"])
            keys = Spread.of(filled[f"{name}:k"], options["quantile"])
            if queries is None or keys is None:
                changes.append(self.left(name, "no tokens were seen"))
                continue
            factor = _factors(queries.extent, keys.extent, q, k, options["limit"])
            asked = np.ones(asker.outputs)
            asked[q.channels] = factor[k.channels]
            scale_output(model, asker, asked)
            scale_output(model, maker, 1 / factor)
            used = factor[np.unique(k.channels)]
            what = f"channels of {asker.name} times {used.min():.3g} .. {used.max():.3g}, of {maker.name} divided by it"
            changes.append(Change(self.name, name, what, data={"factors": used.tolist()}))
        return changes


def _factors(
    queries: NDArray[np.float64], keys: NDArray[np.float64], q: Source, k: Source, limit: float
) -> NDArray[np.float64]:
    """The factor of each output channel of the linear that produces the keys; queries are multiplied by it."""
    meeting = np.zeros(len(keys))
    np.maximum.at(meeting, k.channels, queries[q.channels])
    factor = np.ones(len(keys))
    alive = (meeting > 0) & (keys > 0)
    factor[alive] = np.clip(np.sqrt(keys[alive] / meeting[alive]), 1 / limit, limit)
    return factor


def _pair(model: Model, structure: Structure, attention: Attention) -> tuple[Source, Source] | str:
    """The sources of queries and keys, or the violated rule of the class."""
    q = operand(model, structure, attention, "q", zeros=True)
    k = operand(model, structure, attention, "k", zeros=True)
    if isinstance(q, str) or isinstance(k, str):
        return q if isinstance(q, str) else str(k)
    return unmatched(q, k) or (q, k)
