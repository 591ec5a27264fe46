"""Canonical attention operands: q, k, v of shape [..., N, d], scaled last, k swapped by its own Transpose."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxptq.graph.attention import operand
from onnxptq.graph.canonical.rewrite import Pattern, attention_of, need
from onnxptq.graph.dataflow.flow import moves, scaling
from onnxptq.graph.edit import append, only_reader, producer, replace_output, set_input
from onnxptq.graph.model import Model, value


class KeyTranspose(Pattern[gs.Tensor]):
    """Split the transposition of k off the Transpose that an exporter merged it into."""

    name = "transposition of the keys"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> gs.Tensor:
        """The transposed keys, unless a single swap of the last axes makes them."""
        found = attention_of(node, model)
        keys = operand(found.qk.inputs[1], transposed=True)
        need(keys.transpose is None, "already canonical")
        need(keys.tensor.shape is not None, "unknown rank")
        return keys.tensor

    def rewrite(self, node: gs.Node, match: gs.Tensor, model: Model) -> None:
        """Insert a pair of swaps; a Transpose before them absorbs the first one."""
        rank = len(match.shape)
        swap = [*range(rank - 2), rank - 1, rank - 2]
        made = producer(match)
        readers = list(match.outputs)
        if made is not None and made.op == "Transpose" and len(readers) == 1:
            perm = list(made.attrs["perm"])
            keys = append(model, "Transpose", [made.inputs[0]], base=f"{made.name}_keys", perm=[perm[i] for i in swap])
        else:
            keys = append(model, "Transpose", [match], base=f"{node.name}_keys", perm=swap)
        keys.dtype, keys.shape = match.dtype, [match.shape[i] for i in swap]
        back = append(model, "Transpose", [keys], like=match, base=f"{node.name}_transposed", perm=swap)
        found = attention_of(node, model)
        reader = next(r for r in readers if r is found.qk or r in operand(found.qk.inputs[1], transposed=True).scales)
        reader.inputs = [back if t is match else t for t in reader.inputs]


@dataclass(frozen=True)
class Early:
    """A scalar factor before ops that only move elements."""

    qk: gs.Node
    index: int
    scale: gs.Node
    below: gs.Node


class LateScale(Pattern[Early]):
    """Move a scalar factor on q or k past ops that only move elements, down to the product."""

    name = "scale next to the product"
    anchors = frozenset({"Softmax"})
    repeats = True

    def check(self, node: gs.Node, model: Model) -> Early:
        """The first such factor of q, or else of k."""
        found = attention_of(node, model)
        for index in (0, 1):
            tensor = operand(found.qk.inputs[index], transposed=index == 1).tensor
            below = producer(tensor)
            while below is not None and moves(below) and below.op != "Concat":
                above = producer(below.inputs[0])
                if above is None or only_reader(below.inputs[0], model) is not below:
                    break
                if scaling(above) is not None:
                    return Early(found.qk, index, above, below)
                below = above
        need(False, "already canonical")
        raise AssertionError

    def rewrite(self, node: gs.Node, match: Early, model: Model) -> None:
        """Apply the same Mul or Div to the operand itself."""
        scaled = scaling(match.scale)
        assert scaled is not None
        set_input(match.below, 0, scaled[0])
        held = match.scale.inputs[1] if match.scale.inputs[0] is scaled[0] else match.scale.inputs[0]
        last = match.qk.inputs[match.index]
        late = append(model, match.scale.op, [last, held], like=last, base=f"{match.scale.name}_late")
        set_input(match.qk, match.index, late)
        match.scale.outputs.clear()


@dataclass(frozen=True)
class ByHead:
    """A constant factor per head after the product."""

    qk: gs.Node
    scale: gs.Node
    factors: gs.Tensor


class HeadScale(Pattern[ByHead]):
    """Cosine attention scales scores by a factor per head: scale the queries instead."""

    name = "scale of each head on the queries"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> ByHead:
        """The first step after the product that is not a plain scalar."""
        found = attention_of(node, model)
        place = next((i for i, step in enumerate(found.steps) if scaling(step) is None), None)
        need(place is not None and found.steps[place].op == "Mul", "no factor by head")
        assert place is not None
        step = found.steps[place]
        factors = next((t for t in step.inputs if value(t) is not None), None)
        need(factors is not None, "factors that vary")
        assert factors is not None
        need(len(factors.shape) > 2 and tuple(factors.shape[-2:]) == (1, 1), "factors that differ within a head")
        need(len(factors.shape) <= len(found.qk.inputs[0].shape or []), "factors of other axes than the queries'")
        need(
            all(only_reader(n.outputs[0], model) is not None for n in (found.qk, *found.steps[:place])),
            "scores read elsewhere",
        )
        return ByHead(found.qk, step, factors)

    def rewrite(self, node: gs.Node, match: ByHead, model: Model) -> None:
        """Apply the same Mul to the queries."""
        q = match.qk.inputs[0]
        set_input(match.qk, 0, append(model, "Mul", [q, match.factors], like=q, base=f"{match.scale.name}_queries"))
        replace_output(model, match.scale, 0, next(t for t in match.scale.inputs if t is not match.factors))
