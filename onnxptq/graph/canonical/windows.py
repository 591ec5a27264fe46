"""Move Reshapes of the scores between the two products to q, k, v and the output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.attention import Operand, Scores, operand
from onnxptq.graph.canonical.rewrite import Pattern, attention_of, need
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.edit import append, constant, only_reader, replace_reads, set_input
from onnxptq.graph.model import Model

Lead = tuple[Dim, ...]
"""The axes before the last two."""


@dataclass(frozen=True)
class Split:
    """Reshapes of the leading axes between q k^T and P v, and the axes that replace them."""

    found: Scores
    reshapes: tuple[gs.Node, ...]
    lead: Lead
    q: Operand
    k: Operand
    terms: tuple[tuple[gs.Node, gs.Tensor], ...]
    """Terms added at the axes of the product q k^T."""


class Windows(Pattern[Split]):
    """Remove the two Reshapes by which Swin adds a window mask to its scores.

    The mask is [windows, 1, N, N], the scores are [batch * windows, heads, N, N]. Other models split
    [batch * heads, N, N] to add a mask, and merge before or after the softmax. q, k and v are reshaped instead
    (a view), so that every term broadcasts against the scores.
    """

    name = "leading reshape of scores"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> Split:
        """The Reshapes, if they change only the leading axes."""
        found = attention_of(node, model)
        shaping = [n for n in found.steps if n.op == "Reshape"]
        reshapes = (*shaping, *([found.reshape] if found.reshape is not None else []))
        need(reshapes and len(shaping) <= 2, "no reshape of the scores, or too many")
        path = [found.qk, *found.steps, found.softmax, *found.behind]
        sole = [n for n in path if not (found.guard and n is found.softmax)]
        need(
            all(only_reader(n.outputs[0], model) is not None for n in sole),
            "scores or probabilities have other readers",
        )
        lead = _lead((shaping[0] if shaping else found.softmax).outputs[0])
        before, after = _lead(found.qk.outputs[0]), _lead(found.probabilities)
        need(lead is not None and before is not None and after is not None, "unknown shapes")
        assert lead is not None
        assert before is not None
        assert after is not None
        tails = {tuple(n.outputs[0].shape[-2:]) for n in (found.qk, *reshapes)}
        need(
            len(tails) == 1 and all(isinstance(d, int) for d in next(iter(tails))),
            "a reshape changes the last two axes, or they are dynamic",
        )
        need(
            len(shaping) < 2 or _equal(before, _lead(shaping[1].outputs[0]) or ()),
            "the second reshape does not go back",
        )
        need(all(sum(not isinstance(d, int) for d in axes) <= 1 for axes in (lead, before, after)), "two dynamic axes")
        terms = self._terms(found, shaping, before, lead)
        q, k = operand(found.qk.inputs[0], transposed=False), operand(found.qk.inputs[1], transposed=True)
        need(k.transpose is not None, "the keys are not transposed in plain sight")
        for tensor, axes in ((q.tensor, before), (k.tensor, before), (found.av.inputs[1], after)):
            own = _lead(tensor)
            need(own is not None and _equal(own, axes), "an operand has other leading axes")
            need(all(isinstance(d, int) for d in tensor.shape[-2:]), "an operand has dynamic axes")
        return Split(found, reshapes, lead, q, k, terms)

    @staticmethod
    def _terms(
        found: Scores, shaping: list[gs.Node], before: Lead, lead: Lead
    ) -> tuple[tuple[gs.Node, gs.Tensor], ...]:
        """Terms added before the first Reshape and after the second: they must be reshaped like the scores."""
        out = []
        here = found.qk.outputs[0]
        inside = False
        for step in found.steps:
            inside ^= step in shaping
            if step.op in ("Add", "Where") and not inside and shaping:
                for term in step.inputs:
                    if term is not here:
                        own = _lead(term)
                        need(own is not None, "unknown shape of a term")
                        assert own is not None
                        if own == before and None not in own and any(d != 1 for d in own):
                            out.append((step, term))
                        else:
                            kept = own[-1:] == before[-1:] == lead[-1:] or own[-1:] in ((1,), ())
                            need(kept and all(d == 1 for d in own[:-1]), "a term has leading axes of its own")
            here = step.outputs[0]
        return tuple(out)

    def rewrite(self, node: gs.Node, match: Split, model: Model) -> None:
        """Reshape q, k, v to the axes of the reshaped scores, and the output back."""
        found, lead = match.found, match.lead
        after = _lead(found.probabilities)
        if _lead(found.qk.outputs[0]) != lead:
            self._operands(model, match)
            for step, term in match.terms:
                step.inputs = [_view(model, term, lead) if t is term else t for t in step.inputs]
        for reshape in match.reshapes:
            replace_reads(reshape.outputs[0], reshape.inputs[0])
            reshape.outputs.clear()
        for passed in (found.qk, *found.steps, found.softmax, *found.guard):
            for tensor in passed.outputs:
                tensor.shape = None
        assert after is not None
        if after != lead:
            set_input(found.av, 1, _view(model, found.av.inputs[1], lead))
            output = found.av.outputs[0]
            wide = gs.Variable(
                model.unique(f"{output.name}_windows"), dtype=output.dtype, shape=[*lead, *output.shape[-2:]]
            )
            found.av.outputs = [wide]
            target = constant(model, f"{found.av.name}_shape", _target([*after, *output.shape[-2:]]))
            model.graph.nodes.append(
                gs.Node(
                    "Reshape", name=model.unique(f"{found.av.name}_joined"), inputs=[wide, target], outputs=[output]
                )
            )

    @staticmethod
    def _operands(model: Model, match: Split) -> None:
        qk = match.found.qk
        q = _view(model, match.q.tensor, match.lead)
        if match.q.scales:
            upper = match.q.scales[-1]
            upper.inputs = [q if t is match.q.tensor else t for t in upper.inputs]
        else:
            set_input(qk, 0, q)
        k = _view(model, match.k.tensor, match.lead)
        assert match.k.transpose is not None
        reader = next(n for n in [match.k.transpose, *match.k.scales] if any(t is match.k.tensor for t in n.inputs))
        reader.inputs = [k if t is match.k.tensor else t for t in reader.inputs]
        rank = len(match.lead) + 2
        match.k.transpose.attrs["perm"] = [*range(rank - 2), rank - 1, rank - 2]
        for passed in (*match.q.scales, *match.k.scales, match.k.transpose):
            passed.outputs[0].shape = None


def _lead(tensor: gs.Tensor) -> Lead | None:
    return tuple(tensor.shape[:-2]) if tensor.shape is not None else None


def _equal(a: Lead, b: Lead) -> bool:
    """Whether two tensors of equal size have equal axes; one unknown axis follows from the others."""
    differing = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return len(a) == len(b) and len(differing) <= 1 and not any(isinstance(d, int) for pair in differing for d in pair)


def _target(shape: list[Dim]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([d if isinstance(d, int) else -1 for d in shape], dtype=np.int64)


def _view(model: Model, tensor: gs.Tensor, lead: Lead) -> gs.Tensor:
    shape = [*lead, *tensor.shape[-2:]]
    view = append(
        model,
        "Reshape",
        [tensor, constant(model, f"{tensor.name}_shape", _target(shape))],
        like=tensor,
        base=f"{tensor.name}_windows",
    )
    view.shape = shape
    return view
