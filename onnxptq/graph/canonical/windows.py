"""Scores reshaped to add a term per window: the reshape moves from the scores to q, k and v."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.attention import Operand, Scores, operand, scores
from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.dims import Dim
from onnxptq.graph.flow import varying
from onnxptq.graph.model import Model
from onnxptq.graph.surgery import append, constant, only_reader, replace_reads, set_input


def _equal(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    """Whether two shapes of as many elements are the same: one dimension may be unsaid, the others tell it."""
    differing = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return len(a) == len(b) and len(differing) <= 1 and not any(isinstance(x, int) and isinstance(y, int) for x, y in differing)


@dataclass(frozen=True)
class Split:
    """Scores [..., h, N, N] added to as [B, windows, h, N, N] and put back."""

    found: Scores
    there: gs.Node
    back: gs.Node
    lead: tuple[Dim, ...]
    before: tuple[Dim, ...]
    q: Operand
    k: Operand


class Windows(Pattern[Split]):
    """Swin's shifted windows add a mask [windows, 1, N, N] to scores [batch * windows, heads, N, N] by way of two reshapes.

    q, k and v are reshaped instead (a view), so that every term broadcasts against the scores as they stand.
    """

    name = "leading reshape of scores"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> Split:
        """The two reshapes, if only the axes before the last two change and go back to what they were."""
        found = scores(node, varying(model))
        need(found is not None, "no attention")
        assert found is not None
        shaping = [n for n in found.steps if n.op == "Reshape"]
        need(len(shaping) == 2, "no pair of reshapes")
        there, back = shaping
        shapes = [there.inputs[0].shape, there.outputs[0].shape, back.outputs[0].shape]
        need(all(s is not None for s in shapes), "unknown shapes")
        before, during, after = (tuple(s) for s in shapes)
        need(_equal(before, after) and before[-2:] == during[-2:], "the reshapes do not keep the last two axes, or do not return")
        need(len(before) >= 3 and len(during) >= 3 and before[-1] is not None, "no leading axes")
        need(before[-3] == during[-3] and isinstance(before[-3], int), "the axis before the last two is not kept")
        need(all(isinstance(d, int) for d in before[-2:]), "the number of tokens is dynamic")
        need(sum(not isinstance(d, int) for d in during[:-2]) <= 1 >= sum(not isinstance(d, int) for d in before[:-2]), "two dynamic axes")
        path = [found.qk, *found.steps, found.softmax, found.av]
        need(all(only_reader(n.outputs[0], model) is not None for n in path[:-1]), "scores or probabilities have other readers")
        for step in found.steps[: found.steps.index(there)]:
            for term in step.inputs:
                if step.op == "Add" and term.inputs[:1] != path[path.index(step) - 1 : path.index(step)]:
                    need(
                        term.shape is not None and all(d == 1 for d in list(term.shape)[:-3]), "a term before the reshape has leading axes"
                    )
        q = operand(found.qk.inputs[0], transposed=False)
        k = operand(found.qk.inputs[1], transposed=True)
        need(k.transpose is not None, "the keys are not transposed in plain sight")
        value = found.av.inputs[1]
        for tensor in (q.tensor, k.tensor, value):
            need(tensor.shape is not None and tuple(tensor.shape[:-2]) == before[:-2], "an operand has other leading axes")
            need(isinstance(tensor.shape[-1], int) and isinstance(tensor.shape[-2], int), "an operand has dynamic axes")
        return Split(found, there, back, during[:-2], before[:-2], q, k)

    def rewrite(self, node: gs.Node, match: Split, model: Model) -> None:
        """Reshape q, k, v to the axes the scores were reshaped to, and the output back."""
        found = match.found
        q = self._view(model, match.q.tensor, match.lead)
        if match.q.scales:
            upper = match.q.scales[-1]
            upper.inputs = [q if t is match.q.tensor else t for t in upper.inputs]
        else:
            set_input(found.qk, 0, q)
        k = self._view(model, match.k.tensor, match.lead)
        reader = next(n for n in [match.k.transpose, *match.k.scales] if n is not None and any(t is match.k.tensor for t in n.inputs))
        reader.inputs = [k if t is match.k.tensor else t for t in reader.inputs]
        assert match.k.transpose is not None
        rank = len(match.lead) + 2
        match.k.transpose.attrs["perm"] = [*range(rank - 2), rank - 1, rank - 2]
        set_input(found.av, 1, self._view(model, found.av.inputs[1], match.lead))
        for reshape in (match.there, match.back):
            replace_reads(reshape.outputs[0], reshape.inputs[0])
            reshape.outputs.clear()
        output = found.av.outputs[0]
        wide = gs.Variable(model.unique(f"{output.name}_windows"), dtype=output.dtype, shape=[*match.lead, *output.shape[-2:]])
        narrow = [*match.before, *output.shape[-2:]]
        found.av.outputs = [wide]
        target = constant(model, f"{found.av.name}_shape", np.array([d if isinstance(d, int) else -1 for d in narrow], dtype=np.int64))
        model.graph.nodes.append(gs.Node("Reshape", name=model.unique(f"{found.av.name}_joined"), inputs=[wide, target], outputs=[output]))

    @staticmethod
    def _view(model: Model, tensor: gs.Tensor, lead: tuple[Dim, ...]) -> gs.Tensor:
        shape = [*lead, *tensor.shape[-2:]]
        target = constant(model, f"{tensor.name}_shape", np.array([d if isinstance(d, int) else -1 for d in shape], dtype=np.int64))
        view = append(model, "Reshape", [tensor, target], like=tensor, base=f"{tensor.name}_windows")
        view.shape = shape
        return view
