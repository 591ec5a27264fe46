"""The cost of a quantized file as a table: what is multiplied with what, and the papers' accounting beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx

from onnxptq.bits import FLOAT
from onnxptq.ops import DOMAIN
from onnxptq.report.multiplied import Multiplied, Side
from onnxptq.report.text import megabytes, table

SIZES = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}
"""Bits of the types that weights and other numbers are stored in."""


@dataclass(frozen=True)
class Line:
    """The multiplications of one pair of operands."""

    left: Side
    right: Side
    count: int
    true: tuple[float, float]
    """Mean true bits of both sides."""

    @property
    def codes(self) -> int:
        """Bits of the wider operand's codes, which the papers count; 32: float."""
        return max(self.left.codes, self.right.codes)


@dataclass(frozen=True)
class Account:
    """A file's multiplications and bytes."""

    lines: tuple[Line, ...]
    weights: dict[int, int]
    """Number of coded weights by width."""
    rest: int
    """Number of other floats."""
    size: int
    """Bytes of the file."""

    @property
    def total(self) -> int:
        """All multiplications."""
        return sum(line.count for line in self.lines)

    @property
    def acceleration(self) -> float:
        """PTQ4SAM's theoretical acceleration: a product of k-bit codes counts k/32 of one in FP32."""
        return self.total / max(sum(line.count * line.codes / FLOAT for line in self.lines), 1)

    @property
    def compression(self) -> float:
        """The papers' storage: FP32 against k bits a coded weight and 32 bits any other number."""
        coded = sum(bits * count for bits, count in self.weights.items())
        return FLOAT * self._numbers / max(coded + FLOAT * self.rest, 1)

    @property
    def stored(self) -> float:
        """FP32 against the file."""
        return FLOAT / 8 * self._numbers / max(self.size, 1)

    @property
    def _numbers(self) -> int:
        return sum(self.weights.values()) + self.rest

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lines = [
            {
                **{name: getattr(line, name).__dict__ for name in ("left", "right")},
                "count": line.count,
                "true": list(line.true),
            }
            for line in self.lines
        ]
        figures = {name: getattr(self, name) for name in ("total", "acceleration", "compression", "stored", "size")}
        return {"products": lines, "weights": self.weights, "other numbers": self.rest, **figures}


def account(proto: onnx.ModelProto, products: Iterable[Multiplied]) -> Account:
    """The account of a file with these products."""
    held: dict[tuple[Any, ...], list[Multiplied]] = {}
    for one in products:
        key = tuple((s.what, s.codes, s.multiplier) for s in (one.left, one.right))
        held.setdefault(key, []).append(one)
    lines = []
    for group in held.values():
        count = sum(one.count for one in group)
        true = [sum(s.true * one.count for s, one in pairs) / max(count, 1) for pairs in _sides(group)]
        lines.append(Line(group[0].left, group[0].right, count, (true[0], true[1])))
    weights, rest = _stored(proto)
    return Account(tuple(sorted(lines, key=lambda line: -line.count)), weights, rest, proto.ByteSize())


def _sides(group: list[Multiplied]) -> tuple[list[tuple[Side, Multiplied]], list[tuple[Side, Multiplied]]]:
    return [(one.left, one) for one in group], [(one.right, one) for one in group]


def _stored(proto: onnx.ModelProto) -> tuple[dict[int, int], int]:
    """Coded weights by width, and other floats; scales and tables of codes are neither."""
    weights: dict[str, tuple[int, int]] = {}
    beside: set[str] = set()
    constants = {one.name: one for one in proto.graph.initializer}
    for node in proto.graph.node:
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.domain == DOMAIN and "w_bits" in given and given["w_bits"]:
            number = math.prod(given["shape"]) if "shape" in given else given["K"] * given["N"]
            weights[node.input[1]] = given["w_bits"], number
            beside.update((*node.input[2:4], *node.input[5:]))
        elif node.domain == DOMAIN:
            beside.update(node.input[3:] if node.op_type == "QAttention" else node.input[2:])
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            one = constants[node.input[0]]
            weights[one.name] = SIZES.get(one.data_type, 8), math.prod(one.dims)
            beside.update(node.input[1:])
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            beside.update(node.input[1:])
    found: dict[int, int] = {}
    for bits, number in weights.values():
        found[bits] = found.get(bits, 0) + number
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    others = (one for one in constants.values() if one.name not in beside and one.name not in weights)
    return found, sum(math.prod(one.dims) for one in others if one.data_type in floats)


def account_tables(found: Account) -> str:
    """The table and what it sums up to."""
    rows = [
        [
            f"{line.left.what} x {line.right.what}",
            f"{line.count / 1e9:.3f}",
            f"{line.count / max(found.total, 1):.1%}",
            f"{_width(line.left.codes)} x {_width(line.right.codes)}",
            f"{_width(line.left.multiplier)} x {_width(line.right.multiplier)}",
            " x ".join(_width(true) for true in line.true),
        ]
        for line in found.lines
    ]
    rows.append(["total", f"{found.total / 1e9:.3f}", "100.0%", "", "", ""])
    header = ["operands", "10^9 a sample", "share", "codes", "multipliers", "true bits"]
    says = (
        f"the papers' accounting: {found.acceleration:.2f} times less arithmetic (FP32 = 1, k-bit codes k/32), "
        f"{found.compression:.2f} times less storage (k bits a weight, 32 a number left in float)\n"
        f"this file: {megabytes(found.size)}, {found.stored:.2f} times less than its numbers in FP32"
    )
    return f"{table(header, rows, right=range(1, 6))}\n\n{says}"


def _width(bits: float) -> str:
    return "float" if bits == FLOAT else f"{bits:.2f}".removesuffix(".00")
