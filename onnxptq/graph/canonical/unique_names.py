"""Give every node a unique name."""

from __future__ import annotations

from onnxptq.graph.model import Model


def name_nodes(model: Model) -> None:
    """Name nameless nodes after their op and first output, and make equal names differ."""
    taken: set[str] = set()
    for node in model.graph.nodes:
        base = node.name or f"{node.op}_{next((t.name for t in node.outputs if t.name), 'none')}"
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        node.name = name
        taken.add(name)
