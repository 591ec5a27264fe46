"""Cost: operations and storage of a model by width, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxptq.bits import FLOAT
from onnxptq.graph.model import Model, value
from onnxptq.plan import Plan
from onnxptq.report.text import megabytes, table
from onnxptq.running.runner import InnerTensors, Sample
from onnxptq.structure import Role, Structure

ROLES = {
    "linear": ((Role.WEIGHT,), (Role.LINEAR_INPUT, Role.GELU)),
    "convolution": ((Role.WEIGHT,), (Role.CONV_INPUT, Role.GELU)),
    "scores": ((Role.QUERY,), (Role.KEY,)),
    "attention x values": ((Role.SOFTMAX,), (Role.VALUE,)),
}
"""The sites of both operands by kind of product."""


@dataclass(frozen=True)
class Product:
    """Multiplications of one kind and width."""

    kind: str
    left: int
    """Bits of the weights, of the queries, of the softmax output, or of the first operand; 32: float."""
    right: int
    """Bits of the input, of the keys, of the values, or of the second operand."""
    count: int

    @property
    def share(self) -> float:
        """Cost of one, FP32 being 1: the wider operand decides (w4a4 is 1/8, w6a6 6/32, w4a8 1/4)."""
        return max(self.left, self.right) / FLOAT


@dataclass(frozen=True)
class Stored:
    """Constants of one kind and width."""

    kind: str
    bits: int
    elements: int
    channels: int = 0
    """Scales and zero-points stored beside them."""

    @property
    def bytes(self) -> int:
        """Bytes in the artifact."""
        return (self.elements * self.bits + 7) // 8 + 5 * self.channels


@dataclass(frozen=True)
class Cost:
    """All multiplications of a sample and all bytes of a file."""

    products: tuple[Product, ...]
    stored: tuple[Stored, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "products": [{**one.__dict__, "share": one.share} for one in self.products],
            "stored": [{**one.__dict__, "bytes": one.bytes} for one in self.stored],
        }


def cost(model: Model, structure: Structure, plan: Plan, sample: Sample) -> Cost:
    """Cost of ``model`` under ``plan`` for inputs shaped like ``sample``."""
    sizes = elements(model, wanted(model, structure), sample)
    products: dict[tuple[str, int, int], int] = {}
    for one in multiplications(model, structure, sizes):
        key = (one.kind, *widths(one, model, plan))
        products[key] = products.get(key, 0) + one.count
    return Cost(tuple(Product(*key, count) for key, count in products.items()), tuple(_stored(model, plan)))


def elements(model: Model, names: list[str], sample: Sample) -> dict[str, int]:
    """Number of elements of each tensor: from the graph where its shapes are known, else from one run."""
    tensors = model.graph.tensors()
    known: dict[str, int] = {}
    for name in names:
        shape = tensors[name].shape
        if shape is not None and all(isinstance(n, int) for n in shape):
            known[name] = int(np.prod(shape))
    open_ones = [name for name in names if name not in known]
    shapes = InnerTensors(model.to_proto).shapes(open_ones, sample) if open_ones else {}
    return known | {name: math.prod(shape) for name, shape in shapes.items()}


def wanted(model: Model, structure: Structure) -> list[str]:
    """The tensors whose sizes ``multiplications`` asks for."""
    nodes = model.nodes()
    names = [one.input for one in structure.linears.values()]
    names += [one.input if one.transpose else one.output for one in structure.convs.values()]
    names += [t for one in structure.attentions.values() for t in (one.probabilities, one.output)]
    names += [t.name for name in _others(structure) for t in nodes[name].outputs]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Multiplied:
    """The multiplications of one node for one sample."""

    kind: str
    node: str
    count: int


def multiplications(model: Model, structure: Structure, sizes: Mapping[str, int]) -> Iterator[Multiplied]:
    """Multiplications of each layer, attention and other product; ``sizes`` are elements by tensor."""
    tensors, nodes = model.graph.tensors(), model.nodes()
    for linear in structure.linears.values():
        yield Multiplied("linear", linear.name, sizes[linear.input] * linear.outputs)
    for conv in structure.convs.values():
        weight = value(tensors[conv.weight])
        assert weight is not None
        read = conv.input if conv.transpose else conv.output
        yield Multiplied("convolution", conv.name, sizes[read] * int(np.prod(weight.shape[1:])))
    for attention in structure.attentions.values():
        pairs = sizes[attention.probabilities]
        yield Multiplied("scores", attention.qk, pairs * attention.dim)
        values = sizes[attention.output] * (attention.keys or 0)
        yield Multiplied("attention x values", attention.av, values or pairs * attention.dim)
    for name in _others(structure):
        node = nodes[name]
        inner = node.inputs[0].shape[-1] if node.inputs[0].shape else None
        count = sizes[node.outputs[0].name] * (inner if isinstance(inner, int) else 1)
        yield Multiplied("other products", name, count)


def _others(structure: Structure) -> list[str]:
    """Products that belong to no layer and no attention."""
    return [
        *structure.matmuls,
        *(n for n in structure.left if n not in structure.matmuls and not structure.is_layer(n)),
    ]


def widths(one: Multiplied, model: Model, plan: Plan) -> tuple[int, int]:
    """Bits of both operands; 32: float."""
    if one.kind == "other products":
        read = [f"{one.node}:{Role.MATMUL_INPUT}:{t.name}" for t in model.nodes()[one.node].inputs[:2]]
        first, second = (plan[key].bits if key in plan else FLOAT for key in read)
        return first, second

    def bits(roles: tuple[Role, ...]) -> int:
        return next((plan[f"{one.node}:{role}"].bits for role in roles if f"{one.node}:{role}" in plan), FLOAT)

    left, right = ROLES[one.kind]
    return bits(left), bits(right)


def _stored(model: Model, plan: Plan) -> Iterator[Stored]:
    claimed = {site.tensor: plan[key].bits for key, site in plan.sites.items() if site.role is Role.WEIGHT}
    channels = {site.tensor: site.channels or 1 for site in plan.sites.values() if site.role is Role.WEIGHT}
    weights: dict[int, list[int]] = {}
    rest = 0
    for constant in model.constants():
        values = np.asarray(constant.values)
        if values.dtype.kind != "f":
            continue
        if constant.name in claimed:
            held = weights.setdefault(claimed[constant.name], [0, 0])
            held[0] += values.size
            held[1] += channels[constant.name]
        else:
            rest += values.size
    for bits, (count, scales) in sorted(weights.items()):
        yield Stored("weights", bits, count, scales)
    yield Stored("other constants", 16, rest)


def cost_tables(found: Cost) -> str:
    """Both tables, with totals against FP32."""
    total = sum(one.count for one in found.products) or 1
    spent = sum(one.count * one.share for one in found.products)
    rows = [
        [
            one.kind,
            f"{_width(one.left)} x {_width(one.right)}",
            f"{one.count / 1e9:.3f}",
            f"{one.count / total:.1%}",
            f"{one.count * one.share / 1e9:.3f}",
        ]
        for one in found.products
    ]
    rows.append(["total", "", f"{total / 1e9:.3f}", "100.0%", f"{spent / 1e9:.3f}"])
    header = ["multiplications", "bits", "10^9 a sample", "share", "FP32 equivalent"]
    kept = [
        [one.kind, _width(one.bits), f"{one.elements / 1e6:.3f}", megabytes(4 * one.elements), megabytes(one.bytes)]
        for one in found.stored
    ]
    before, after = sum(4 * one.elements for one in found.stored), sum(one.bytes for one in found.stored)
    kept.append(["total", "", f"{before / 4e6:.3f}", megabytes(before), megabytes(after)])
    says = f"{total / max(spent, 1):.2f} times less arithmetic (a product counts as its wider operand: bits / 32), "
    says += f"{before / max(after, 1):.2f} times less storage"
    first = table(header, rows, right=range(2, 5))
    return (
        f"{first}\n\n{table(['storage', 'bits', '10^6 elements', 'FP32', 'stored'], kept, right=range(1, 5))}\n\n{says}"
    )


def _width(bits: int) -> str:
    return "float" if bits == FLOAT else str(bits)
