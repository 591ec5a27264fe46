"""mix-qk: q . k = (q A) . (k inv(A)') for any matrix A: equal second moments and even channels for queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.graph.dataflow.trace import Tracer
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.linears import obstacle, operand, unmatched
from onnxptq.passes.mixing import F64, balancing, mix_outputs, moment, repeated
from onnxptq.passes.relative import PositionTable, tables
from onnxptq.passes.spread import ask
from onnxptq.structure import Attention, Source, Structure


@dataclass(frozen=True)
class _Pair:
    q: Source
    k: Source
    tables: tuple[PositionTable, ...]


class MixQueriesKeys(Pass):
    """Multiply each head's queries by A, and its keys by the transposed inverse of A, in the linears that produce them.

    A is the geometric mean of the inverse of the queries' second moments and of the keys', times a Hadamard matrix with
    random signs: then both have the same moments, and no channel stands out.

    1. Queries and keys are outputs of one linear each, one to one, and no two heads share any.
    2. Nothing else reads the keys. Other readers of the queries multiply them by constants, as the relative positions
       of Segment Anything do: these constants absorb the inverse too, and all heads have the same A.
    """

    name = "mix-qk"
    options: ClassVar[Mapping[str, Any]] = {"ridge": 1e-3, "scope": "fused"}
    """``ridge``: share of the mean second moment that is added to each.

    ``scope``: attentions with queries and keys of one linear, or all.
    """
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scope": ("fused", "all")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"ridge": (1e-9, 1.0)}
    reads = moves = frozenset({"query", "key"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        tracer = Tracer(model)
        found = {
            name: _pair(model, structure, attention, tracer, options["scope"])
            for name, attention in structure.attentions.items()
        }
        legal = {name: pair for name, pair in found.items() if isinstance(pair, _Pair)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {
            f"{name}:{which}": ask(structure.linears[source.linear].output)
            for name, pair in legal.items()
            for which, source in (("q", pair.q), ("k", pair.k))
        }
        for name, pair in legal.items():
            q, k = (cast(RowSample, filled[f"{name}:{which}"]).sample.astype(np.float64) for which in "qk")
            if not q.size or not k.size:
                changes.append(self.left(name, "no tokens were seen"))
                continue
            matrices = _matrices(q, k, pair, options["ridge"])
            inverses = np.asarray(np.linalg.inv(matrices), np.float64)
            asker, maker = structure.linears[pair.q.linear], structure.linears[pair.k.linear]
            mix_outputs(model, asker, pair.q.channels, matrices)
            mix_outputs(model, maker, pair.k.channels, inverses.transpose(0, 2, 1))
            for table in pair.tables:
                table.mix(model, inverses[0])
            what = f"channels of {asker.name} and {maker.name} mixed within {len(matrices)} heads"
            changes.append(Change(self.name, name, what + (", with relative positions" if pair.tables else "")))
        return changes


def _matrices(q: F64, k: F64, pair: _Pair, ridge: float) -> F64:
    """A of each head; one A for all heads where position tables are shared."""
    heads = list(zip(pair.q.channels, pair.k.channels, strict=True))
    if pair.tables:
        together = np.concatenate([q[:, a] for a, _ in heads]), np.concatenate([k[:, b] for _, b in heads])
        return np.stack([balancing(moment(together[0], ridge), moment(together[1], ridge))] * len(heads))
    return np.stack([balancing(moment(q[:, a], ridge), moment(k[:, b], ridge)) for a, b in heads])


def _pair(model: Model, structure: Structure, attention: Attention, tracer: Tracer, scope: str) -> _Pair | str:
    """The tensors of the fold, or the violated rule of the class."""
    k = operand(model, structure, attention, "k", zeros=True)
    q = attention.q_source
    if isinstance(k, str):
        return k
    if q is None:
        return "no single linear makes its queries"
    if scope == "fused" and q.linear != k.linear:
        return "two linears make its queries and keys (scope: fused)"
    why = obstacle(model, structure.linears[q.linear].output, attention.q, zeros=True) or unmatched(q, k)
    if why is not None:
        return why
    if repeated(q.channels) or repeated(k.channels):
        return "heads share queries or keys"
    if q.exclusive:
        return _Pair(q, k, ())
    found = tables(model, attention, q, structure.linears[q.linear].output, tracer)
    return found if isinstance(found, str) else _Pair(q, k, found)
