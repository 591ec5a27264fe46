"""Move a swap of the last two axes after a Reshape of the leading axes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.flow import swaps_last
from onnxptq.graph.edit import append, constant, only_reader, replace_output
from onnxptq.graph.model import Model


class LateSwap(Pattern[gs.Node]):
    """Swap, then Reshape [B * h, d, N] to [B, h, d, N], becomes Reshape to [B, h, N, d], then swap.

    Some exporters transpose keys this way. The new Reshape undoes an earlier merge of axes, so both fold away.
    """

    name = "swap before a leading reshape"
    anchors = frozenset({"Transpose"})

    def check(self, node: gs.Node, model: Model) -> gs.Node:
        """The Reshape after the swap."""
        need(swaps_last(node) and node.inputs[0].shape is not None, "no swap of the last two axes")
        reshape = only_reader(node.outputs[0], model)
        need(reshape is not None and reshape.op == "Reshape", "no reshape behind it")
        assert reshape is not None
        before, after = node.outputs[0].shape, reshape.outputs[0].shape
        need(before is not None and after is not None and len(after) >= 2, "unknown shapes")
        need(
            list(before[-2:]) == list(after[-2:]) and all(isinstance(d, int) for d in after[-2:]),
            "the reshape changes the last axes",
        )
        need(sum(not isinstance(d, int) for d in after) <= 1, "two dynamic axes")
        return reshape

    def rewrite(self, node: gs.Node, match: gs.Node, model: Model) -> None:
        """Put the Reshape first."""
        *lead, width, tokens = match.outputs[0].shape
        shape: list[Dim] = [*lead, tokens, width]
        target = constant(
            model, f"{match.name}_target", np.array([d if isinstance(d, int) else -1 for d in shape], dtype=np.int64)
        )
        x = append(model, "Reshape", [node.inputs[0], target], base=f"{match.name}_first")
        x.dtype, x.shape = node.inputs[0].dtype, shape
        rank = len(shape)
        y = append(
            model,
            "Transpose",
            [x],
            like=match.outputs[0],
            base=f"{node.name}_swap",
            perm=[*range(rank - 2), rank - 1, rank - 2],
        )
        replace_output(model, match, 0, y)
        match.outputs.clear()
