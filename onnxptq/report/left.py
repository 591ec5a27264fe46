"""Products that the default scope or the guard leaves in float, by reason, with their share of the multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxptq.bits import FLOAT
from onnxptq.graph.model import Model
from onnxptq.plan import Plan
from onnxptq.report.cost import elements, multiplications, wanted, widths
from onnxptq.report.text import table
from onnxptq.running.runner import Sample
from onnxptq.structure import Structure

WORTH_SAYING = 0.03
"""Share of the multiplications that may stay in float without a warning."""
RELIEVED = "relieved by the guard"


@dataclass(frozen=True)
class Left:
    """Layers or products that stay in float for one reason, the largest first."""

    reason: str
    nodes: tuple[str, ...]
    share: float
    """Of the multiplications of the whole model."""


def is_static(model: Model, structure: Structure) -> bool:
    """True if the sizes of all operands are known without a sample."""
    tensors = model.graph.tensors()
    shapes = [tensors[name].shape for name in wanted(model, structure)]
    return all(shape is not None and all(isinstance(n, int) for n in shape) for shape in shapes)


def left_in_float(
    model: Model, structure: Structure, plan: Plan, sample: Sample, before: Plan | None = None
) -> list[Left]:
    """Products that structure excludes from the plan for inputs shaped like ``sample``, and those of which the guard
    took a site out of the plan ``before``; the largest share first."""
    gone = before.without(plan.keys()) if before is not None else Plan({})
    relieved = {site.consumer for site in gone.sites.values()}
    sizes = elements(model, wanted(model, structure), sample)
    every = sorted(multiplications(model, structure, sizes), key=lambda one: -one.count)
    total = sum(one.count for one in every) or 1
    groups: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    for one in every:
        bits = widths(one, model, plan)
        if one.node in relieved and FLOAT in bits:
            reason = RELIEVED
        elif one.node in structure.left and min(bits) == FLOAT:
            reason = structure.left[one.node]
        else:
            continue
        groups.setdefault(reason, []).append(one.node)
        shares[reason] = shares.get(reason, 0.0) + one.count / total
    found = [Left(reason, tuple(nodes), shares[reason]) for reason, nodes in groups.items()]
    return sorted(found, key=lambda one: -one.share)


def share_warning(left: Sequence[Left]) -> list[str]:
    """The warning that a large part stays in float; empty where it is small."""
    total = sum(one.share for one in left)
    if total <= WORTH_SAYING:
        return []
    parts = "; ".join(f"{one.share:.1%} {one.reason} ({_nodes(one)})" for one in left if one.share >= 0.001)
    ways = ["--include NAME quantizes a layer all the same"] * any(one.reason != RELIEVED for one in left)
    ways += ["--set guard=off switches the guard off"] * any(one.reason == RELIEVED for one in left)
    return [f"{total:.0%} of the multiplications stay in float: {parts}; {', '.join(ways)}"]


def _nodes(one: Left) -> str:
    rest = len(one.nodes) - 1
    return one.nodes[0] + (f" and {rest} more" if rest else "")


def left_table(left: Sequence[Left]) -> str:
    """Reasons with share and number of nodes."""
    rows = [[f"{one.share:.1%}", str(len(one.nodes)), one.reason, one.nodes[0]] for one in left]
    return table(["in float", "nodes", "reason", "largest"], rows, right=(0, 1))


def hidden(structure: Structure) -> list[str]:
    """The warning that layers lie in bodies of If, Loop or Scan."""
    inside = structure.hidden
    outside = len(structure.linears) + len(structure.convs) + 2 * len(structure.attentions) + len(structure.matmuls)
    return [
        f"{number} of {outside + sum(inside.values())} layers and products lie in bodies of {op} and stay in float; "
        f"export the model without {op} to quantize them"
        for op, number in inside.items()
    ]
