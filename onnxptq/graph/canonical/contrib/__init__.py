"""Ops of onnxruntime's optimizer (domain com.microsoft) expanded to standard ops."""

from __future__ import annotations

import logging
from collections import Counter

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib import attention, embedding, fused, gelu, norm, rotary
from onnxptq.graph.canonical.contrib.writer import DOMAIN, Expansion, Writer
from onnxptq.graph.canonical.rewrite import Miss
from onnxptq.graph.dataflow.flow import standard
from onnxptq.graph.dataflow.shapes import infer
from onnxptq.graph.edit import replace_output, sweep
from onnxptq.graph.model import Model
from onnxptq.graph.nested import graphs

log = logging.getLogger(__name__)

TABLE: dict[str, Expansion] = {
    **attention.TABLE,
    **embedding.TABLE,
    **fused.TABLE,
    **gelu.TABLE,
    **norm.TABLE,
    **rotary.TABLE,
}
"""The expansion of each op, by op name."""
UNDECLARED = frozenset({"SimplifiedLayerNormalization"})
"""Ops that onnxruntime puts into the standard domain although ONNX has no op of the name."""


def expand(model: Model) -> None:
    """Expand every op that has an exact equivalent in standard ops; return a note on the others.

    Some expansions need the rank of an input, which may become known when earlier ops are expanded.
    """
    if not any(_of_onnxruntime(node) for node in model.graph.nodes):
        return
    while any(_of_onnxruntime(node) for node in model.graph.nodes):
        model.graph.toposort()
        infer(model)
        reasons: Counter[str] = Counter()
        done = 0
        for node in [n for n in model.graph.nodes if _of_onnxruntime(n)]:
            try:
                _write(model, node)
                done += 1
            except Miss as reason:
                reasons[f"{DOMAIN}.{node.op} ({reason})"] += 1
        sweep(model)
        if not done:
            model.notes += [
                note
                for text, count in reasons.items()
                if (note := f"kept as they are: {count} {text}") not in model.notes
            ]
            break
    model.graph.toposort()
    used = {node.domain for part in graphs(model.graph) for node in part.nodes}
    imports = model.graph.import_domains or ()
    model.graph.import_domains = [d for d in imports if d.domain in ("", "ai.onnx") or d.domain in used]


def _of_onnxruntime(node: gs.Node) -> bool:
    return node.domain == DOMAIN or (standard(node) and node.op in UNDECLARED)


def _write(model: Model, node: gs.Node) -> None:
    """Write the standard ops that replace one node."""
    rule = TABLE.get(node.op)
    if rule is None:
        raise Miss("not expressible in standard ops, or unknown")
    results = rule(Writer(model, node))
    for index, output in enumerate(node.outputs):
        if output.name and (index >= len(results) or results[index] is None):
            used = output.outputs or any(output is t for t in model.graph.outputs)
            if used:
                raise Miss(f"its output {index} is read")
    for index, (output, result) in enumerate(zip(node.outputs, results, strict=False)):
        if output.name and result is not None:
            replace_output(model, node, index, result)
    node.outputs.clear()
