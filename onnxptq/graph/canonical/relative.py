"""Decomposed relative position: scores [..., Nq, H, W] + rel_h[..., Nq, H, 1] + rel_w[..., Nq, 1, W]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.attention import Scores
from onnxptq.graph.canonical.rewrite import Miss, Pattern, attention_of, need
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.edit import append, constant, only_reader, producer
from onnxptq.graph.model import Model


@dataclass(frozen=True)
class Terms:
    """The two terms before their unsqueezed axis, and the scores they are added to."""

    found: Scores
    source: gs.Tensor
    target: gs.Tensor
    rows: gs.Tensor
    columns: gs.Tensor
    lead: tuple[Dim, ...]
    queries: int
    height: int
    width: int


class Relative(Pattern[Terms]):
    """Rewrite both variants to the form above.

    Segment Anything adds the terms to reshaped scores; others sum, reshape and add them.
    """

    name = "decomposed relative position"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> Terms:
        """The terms, and the tensors before and after their addition."""
        found = attention_of(node, model)
        need(found.qk.outputs[0].shape is not None, "unknown shape of the scores")
        *lead, queries, keys = found.qk.outputs[0].shape
        need(isinstance(queries, int) and isinstance(keys, int), "the number of tokens is dynamic")
        need(sum(not isinstance(d, int) for d in lead) <= 1, "two dynamic axes")
        for source, target, terms in (*self._reshaped(found), *self._summed(found)):
            rows, columns = self._both(terms, queries, keys)
            if rows is None or columns is None:
                continue
            need(only_reader(source, model) is not None, "the scores have other readers")
            height, width = int(rows.shape[-2]), int(columns.shape[-1])
            plain = (
                len(rows.shape) == len(lead) + 3 and producer(rows) is not None and self._already(found, rows, columns)
            )
            need(not plain, "already canonical")
            return Terms(found, source, target, rows, columns, tuple(lead), queries, height, width)
        raise Miss("no two terms [..., H, 1] and [..., 1, W]")

    @staticmethod
    def _already(found: Scores, rows: gs.Tensor, columns: gs.Tensor) -> bool:
        return all((made := producer(t)) is not None and made.op == "Unsqueeze" for t in (rows, columns))

    @staticmethod
    def _reshaped(found: Scores) -> list[tuple[gs.Tensor, gs.Tensor, list[gs.Tensor]]]:
        """Match Reshape, Add, Add, Reshape between product and softmax."""
        for index in range(len(found.steps) - 3):
            four = found.steps[index : index + 4]
            if [n.op for n in four] == ["Reshape", "Add", "Add", "Reshape"]:
                here, first, second, back = four
                terms = [
                    next(t for t in n.inputs if t is not m.outputs[0]) for m, n in ((here, first), (first, second))
                ]
                return [(here.inputs[0], back.outputs[0], terms)]
        return []

    @staticmethod
    def _summed(found: Scores) -> list[tuple[gs.Tensor, gs.Tensor, list[gs.Tensor]]]:
        """Match Add(scores, Reshape(Add(rows, columns)))."""
        before = found.qk.outputs[0]
        cases = []
        for step in found.steps:
            if step.op == "Add":
                term = next((t for t in step.inputs if t is not before), step.inputs[1])
                made = producer(term)
                plus = producer(made.inputs[0]) if made is not None and made.op == "Reshape" else None
                if plus is not None and plus.op == "Add":
                    cases.append((before, step.outputs[0], list(plus.inputs)))
            before = step.outputs[0]
        return cases

    @staticmethod
    def _both(terms: list[gs.Tensor], queries: int, keys: int) -> tuple[gs.Tensor | None, gs.Tensor | None]:
        """(rows, columns) among two terms [..., H, 1] and [..., 1, W], with H * W keys and all queries before them."""
        for rows, columns in (terms, terms[::-1]):
            a, b = rows.shape, columns.shape
            if a is None or b is None or len(a) != len(b) or len(a) < 4:
                continue
            if (
                a[-1] == 1
                and b[-2] == 1
                and isinstance(a[-2], int)
                and isinstance(b[-1], int)
                and a[-2] * b[-1] == keys
            ):
                for start in (-4, -3):
                    middle = a[start:-2]
                    if (
                        all(isinstance(d, int) for d in middle)
                        and int(np.prod(middle)) == queries
                        and list(a[:-2]) == list(b[:-2])
                    ):
                        return rows, columns
        return None, None

    def rewrite(self, node: gs.Node, match: Terms, model: Model) -> None:
        """Unsqueeze terms [..., Nq, H] and [..., Nq, W] right before they are added."""
        lead = [d if isinstance(d, int) else -1 for d in match.lead]
        base = match.found.softmax.name
        following = match.target.outputs

        def view(tensor: gs.Tensor, tail: list[int], name: str) -> gs.Tensor:
            target = constant(model, f"{base}_{name}_shape", np.array([*lead, *tail], dtype=np.int64))
            y = append(model, "Reshape", [tensor, target], base=f"{base}_{name}")
            y.dtype, y.shape = tensor.dtype, [*match.lead, *tail]
            return y

        def spread(tensor: gs.Tensor, length: int, axis: int, name: str) -> gs.Tensor:
            made = producer(tensor)
            terms = view(
                made.inputs[0] if made is not None and made.op == "Unsqueeze" else tensor, [match.queries, length], name
            )
            y = append(
                model,
                "Unsqueeze",
                [terms, constant(model, f"{base}_{name}_axis", np.array([axis]))],
                base=f"{base}_{name}_spread",
            )
            y.dtype, y.shape = (
                tensor.dtype,
                [*terms.shape, 1] if axis == -1 else [*terms.shape[:-1], 1, terms.shape[-1]],
            )
            return y

        rows = spread(match.rows, match.height, -1, "rel_h")
        columns = spread(match.columns, match.width, -2, "rel_w")
        readers = list(following)
        y = view(match.source, [match.queries, match.height, match.width], "grid")
        for term in (rows, columns):
            y = append(model, "Add", [y, term], like=y, base=f"{base}_add")
        y = view(y, [match.queries, match.height * match.width], "flat")
        for reader in readers:
            reader.inputs = [y if t is match.target else t for t in reader.inputs]
