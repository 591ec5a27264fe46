"""Transposition of the last two axes on a tensor whose leading axes are merged for it and split again."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.flow import swaps_last
from onnxptq.graph.model import Model
from onnxptq.graph.surgery import append, only_reader, producer, replace_output


class MergedSwap(Pattern[gs.Tensor]):
    """Reshape [B, h, N, d] -> [B * h, N, d], swap, Reshape back is one swap."""

    name = "swap behind merged axes"
    anchors = frozenset({"Transpose"})

    def check(self, node: gs.Node, model: Model) -> gs.Tensor:
        """The tensor before the first reshape."""
        need(swaps_last(node) and len(node.attrs["perm"]) == 3, "no swap of three axes")
        merge, split = producer(node.inputs[0]), only_reader(node.outputs[0], model)
        need(merge is not None and merge.op == "Reshape" and split is not None and split.op == "Reshape", "no reshapes around it")
        assert merge is not None
        assert split is not None
        before, during, after = merge.inputs[0].shape, node.inputs[0].shape, split.outputs[0].shape
        need(before is not None and during is not None and after is not None, "unknown shapes")
        need(len(before) > 2 and list(before[-2:]) == list(during[-2:]), "the first reshape changes the last axes")
        need(list(after) == [*before[:-2], before[-1], before[-2]] and None not in after, "the second reshape does not go back")
        source: gs.Tensor = merge.inputs[0]
        return source

    def rewrite(self, node: gs.Node, match: gs.Tensor, model: Model) -> None:
        """One Transpose."""
        split = node.outputs[0].outputs[0]
        rank = len(match.shape)
        y = append(
            model, "Transpose", [match], like=split.outputs[0], base=f"{node.name}_swap", perm=[*range(rank - 2), rank - 1, rank - 2]
        )
        replace_output(model, split, 0, y)
        split.outputs.clear()
