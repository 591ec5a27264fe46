"""What a quantized file multiplies: the products of its graph, with codes, multipliers and true bits of both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxptq.bits import FLOAT
from onnxptq.graph.quantized import MOVING
from onnxptq.ops import DOMAIN, schemes
from onnxptq.ops.outlier_retained import index_bits
from onnxptq.ops.qconv import ranges
from onnxptq.running.runner import InnerTensors, Sample

FLOATS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
INTEGERS = frozenset({"ConvInteger", "MatMulInteger"})
TABLE = 8
"""Bits of a table's values."""
FAMILIES, POWERS = 4, 8
"""The library multiplies log-base codes as at most 4 integers of 8 powers of two (``attention_coders.h``)."""
NAMES = {
    "uniform": "uniform codes",
    "token": "ranges at run time",
    "row": "row's largest at run time",
    "table": "table, int8 values",
    "dual_region": "two regions",
    "outlier_retained": "groups of outliers",
}


@dataclass(frozen=True)
class Side:
    """One operand of a product."""

    what: str
    codes: int = FLOAT
    """Bits of a code; 32: float."""
    multiplier: int = FLOAT
    """Bits of what is multiplied."""
    true: float = FLOAT
    """Bits of an element with its index and its share of ranges at run time."""


PLAIN = Side("float")
BYTES = Side("integers", 8, 8, 8)


@dataclass(frozen=True)
class Multiplied:
    """The multiplications of one product for one sample."""

    node: str
    left: Side
    right: Side
    count: int


class File:
    """The products of a quantized file, with shapes for inputs like ``sample``."""

    def __init__(self, proto: onnx.ModelProto, sample: Sample) -> None:
        self.proto, graph = proto, proto.graph
        self._constants = {one.name: one for one in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output}
        self.nodes = [node for node in graph.node if self._is_product(node)]
        names = [n for node in self.nodes for n in (*node.input[:3], node.output[0]) if n and n not in self._constants]
        inner = InnerTensors(lambda: onnx.ModelProto.FromString(proto.SerializeToString()))
        known = inner.shapes(list(dict.fromkeys(names)), sample)
        self._shapes = known | {name: tuple(one.dims) for name, one in self._constants.items()}

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.domain == DOMAIN:
            return node.op_type in OWN
        first = self._made.get(node.input[0]) if node.input else None
        probe = first is not None and first.domain == DOMAIN and not first.input
        return node.op_type in FLOATS | INTEGERS and not probe

    def products(self) -> Iterator[Multiplied]:
        """Every product, in graph order."""
        for node in self.nodes:
            given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            if node.domain == DOMAIN:
                yield from OWN[node.op_type](self, node, given)
            else:
                left, right = (self._read(name) for name in node.input[:2])
                if node.op_type in INTEGERS:
                    left, right = (BYTES if one is PLAIN else one for one in (left, right))
                yield Multiplied(node.name, left, right, self._count(node, given))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        found: tuple[int, ...] = self._shapes[name]
        return found

    def values(self, name: str) -> NDArray[Any]:
        """A constant."""
        return numpy_helper.to_array(self._constants[name])

    def _count(self, node: onnx.NodeProto, given: Mapping[str, Any]) -> int:
        left, right, out = (self.shape(name) for name in (*node.input[:2], node.output[0]))
        match node.op_type:
            case "Conv" | "ConvInteger":
                return math.prod(out) * math.prod(right[1:])
            case "ConvTranspose":
                return math.prod(left) * math.prod(right[1:])
        return math.prod(out) * left[0 if given.get("transA") else -1]

    def _read(self, name: str) -> Side:
        """An operand of a standard product: coded if it comes from codes, by the width of their type or of a Clip."""
        limit = FLOAT
        while name in self._made and (node := self._made[name]).op_type in (*MOVING, "DequantizeLinear", "Clip", "Sub"):
            if node.op_type == "DequantizeLinear":
                limit = 8
            if limit < FLOAT and node.op_type == "Clip" and len(node.input) > 2 and node.input[2] in self._constants:
                limit = min(limit, int(self.values(node.input[2])).bit_length())
            name = node.input[0]
        made = self._made.get(name)
        if limit == FLOAT and (made is None or made.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear")):
            kind = self._constants[name].data_type if name in self._constants else 0
            return BYTES if kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) else PLAIN
        kinds = [
            self._constants[n].data_type
            for n in (name, *(made.input[2:] if made is not None else ()))
            if n in self._constants
        ]
        if any(kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4) for kind in kinds):
            limit = 4
        bits = min(limit, 8)
        return Side("weights" if name in self._constants else NAMES["uniform"], bits, bits, bits)


def side(scheme: str, bits: int, params: Sequence[NDArray[Any]], line: int) -> Side:
    """An operand of one of our ops; ``line``: elements of one range at run time."""
    if not bits:
        return PLAIN
    found = schemes()[scheme]
    true = bits + found.range_bits / max(line, 1)
    if scheme == "log_base":
        whole = _powers(params[0])
        return Side(f"log codes, {'powers of two' if whole else 'float values'}", bits, 8 if whole else FLOAT, true)
    if scheme == "outlier_retained":
        true += index_bits(max((one.size for one in params), default=1))
    return Side(NAMES[scheme], bits, TABLE if scheme == "table" else bits, true)


def _powers(values: NDArray[Any]) -> bool:
    """Whether the values fall apart into few integers of powers of two, as the library looks for them."""
    held = values[values > 0]
    for families in range(1, FAMILIES + 1):
        if families <= len(held) and (held[:-families] == 2 * held[families:]).all():
            return sum(math.ceil(len(held[f::families]) / POWERS) for f in range(families)) <= FAMILIES
    return False


def _weight(bits: int) -> Side:
    return Side("weights", bits, bits, bits) if bits else PLAIN


def _params(file: File, names: Sequence[str]) -> list[NDArray[Any]]:
    return [file.values(name) for name in names if name]


def _linear(file: File, node: onnx.NodeProto, a: Mapping[str, Any]) -> Iterator[Multiplied]:
    shape = file.shape(node.input[0])
    left = side(a["x_scheme"].decode(), a["x_bits"], _params(file, node.input[5:]), shape[-1])
    yield Multiplied(node.name, left, _weight(a["w_bits"]), math.prod(shape) * a["N"])


def _conv(file: File, node: onnx.NodeProto, a: Mapping[str, Any]) -> Iterator[Multiplied]:
    shape = file.shape(node.input[0])
    unit = ranges(a["shape"], a["strides"], a["pads"], a["group"])
    line = {"pixel": shape[1], "channel": math.prod(shape[2:]), "sample": math.prod(shape[1:])}[unit]
    left = side(a["x_scheme"].decode(), a["x_bits"], _params(file, node.input[5:]), line)
    yield Multiplied(
        node.name, left, _weight(a["w_bits"]), math.prod(file.shape(node.output[0])) * math.prod(a["shape"][1:])
    )


def _attention(file: File, node: onnx.NodeProto, a: Mapping[str, Any]) -> Iterator[Multiplied]:
    q, k, v = (file.shape(name) for name in node.input[:3])
    lead, keys = math.prod(q[:-1]), k[-2]
    query, key = (side(a["qk_scheme"].decode(), a[f"{n}_bits"], (), q[-1]) for n in ("q", "k"))
    yield Multiplied(f"{node.name}: scores", query, key, lead * keys * q[-1])
    value = side(a["v_scheme"].decode(), a["v_bits"], (), keys)
    weights = side(a["softmax_scheme"].decode(), a["p_bits"], _params(file, node.input[13:]), keys)
    yield Multiplied(f"{node.name}: values", weights, value, lead * keys * v[-1])


def _matmul(file: File, node: onnx.NodeProto, a: Mapping[str, Any]) -> Iterator[Multiplied]:
    first, out = file.shape(node.input[0]), file.shape(node.output[0])
    sides = [
        side(a[f"{n}_scheme"].decode(), a[f"{n}_bits"], (), file.shape(t)[-1])
        for n, t in zip("ab", node.input[:2], strict=True)
    ]
    yield Multiplied(node.name, sides[0], sides[1], math.prod(out) * first[-1])


OWN: Mapping[str, Callable[[File, onnx.NodeProto, Mapping[str, Any]], Iterator[Multiplied]]] = {
    "QLinear": _linear,
    "QConv": _conv,
    "QAttention": _attention,
    "QMatMul": _matmul,
}
