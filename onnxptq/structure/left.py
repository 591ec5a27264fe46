"""Ops that structure keeps in float, and why: products outside attentions, softmaxes, bodies of If and Loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

import onnx_graphsurgeon as gs

from onnxptq.graph.attention import recognised
from onnxptq.graph.dataflow.flow import standard
from onnxptq.graph.model import Model
from onnxptq.graph.nested import bodies, nodes
from onnxptq.structure.types import Attention

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})


def products(
    model: Model, claimed: Collection[str], found: Mapping[str, Attention], varying: set[str]
) -> dict[str, str]:
    """Products of the main graph outside the ``claimed`` layers and attentions, and why they stay in float."""
    softmaxes = {
        n.name: str(recognised(n, varying)) for n in model.graph.nodes if n.op == "Softmax" and n.name not in found
    }
    why: dict[str, str] = {}
    for node in model.graph.nodes:
        if node.op not in LAYERS or not standard(node) or node.name in claimed:
            continue
        changing = [t.name in varying for t in node.inputs[:2]]
        if node.op == "Einsum" and any(changing):
            why[node.name] = f"no matrix product: Einsum {node.attrs.get('equation', '')}"
        elif all(changing):
            beside = next((softmaxes[name] for name in _neighbours(node) if name in softmaxes), None)
            why[node.name] = f"no attention: {beside}" if beside else "a product of two activations without softmax"
        elif any(changing):
            why[node.name] = "its constant operand is no matrix on the right"
    return why


def _neighbours(product: gs.Node) -> Iterator[str]:
    """Names of the nodes around a product, up to the next layers."""
    ways: tuple[Callable[[gs.Node], list[gs.Node]], ...] = (
        lambda node: [reader for t in node.outputs for reader in t.outputs],
        lambda node: [maker for t in node.inputs for maker in t.inputs],
    )
    for step in ways:
        queue, seen = step(product), set[int]()
        while queue:
            node = queue.pop(0)
            if id(node) in seen or node.op in LAYERS:
                continue
            seen.add(id(node))
            yield node.name
            queue += step(node)


def hidden(model: Model) -> dict[str, int]:
    """Number of layers and products in bodies of If, Loop and Scan, by op."""
    counts: Counter[str] = Counter()
    for node in model.graph.nodes:
        inside = sum(one.op in LAYERS for body in bodies(node).values() for one in nodes(body))
        if inside:
            counts[node.op] += inside
    return dict(counts)
