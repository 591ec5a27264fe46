"""Recognise Gelu in the chains of Erf or Tanh that exporters write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Miss, Pattern, need
from onnxptq.graph.edit import append, only_reader, producer, replace_output
from onnxptq.graph.model import Model, scalar


@dataclass(frozen=True)
class Factors:
    """A flattened product: its tensor factors, and its numeric factor."""

    tensors: tuple[gs.Tensor, ...]
    number: float


def factors(tensor: gs.Tensor, *, top: bool = True) -> Factors:
    """Flatten products and quotients by numbers.

    Stops at other ops and at tensors with several readers, such as the argument of Gelu.
    """
    node = producer(tensor)
    if node is None or (not top and len(tensor.outputs) > 1):
        return Factors((tensor,), 1.0)
    if node.op == "Mul":
        number = 1.0
        found: list[gs.Tensor] = []
        for side in node.inputs:
            held = scalar(side)
            if held is not None:
                number *= held
            else:
                inner = factors(side, top=False)
                number *= inner.number
                found += inner.tensors
        return Factors(tuple(found), number)
    divisor = scalar(node.inputs[1]) if node.op == "Div" else None
    if divisor:
        inner = factors(node.inputs[0], top=False)
        return Factors(inner.tensors, inner.number / divisor)
    return Factors((tensor,), 1.0)


def close(a: float, b: float, tolerance: float = 1e-3) -> bool:
    """Whether two numbers are equal up to an exporter's rounding (fp16 models included)."""
    return abs(a - b) <= tolerance * abs(b)


class Gelu(Pattern[tuple[gs.Tensor, gs.Node, Literal["none", "tanh"]]]):
    """Match x * 0.5 * (1 + erf(x / sqrt 2)) or x * 0.5 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Factors may come in any order.
    """

    name = "Gelu"
    anchors = frozenset({"Erf", "Tanh"})

    def check(self, node: gs.Node, model: Model) -> tuple[gs.Tensor, gs.Node, Literal["none", "tanh"]]:
        """The input, the last node of the chain, and the approximation."""
        if node.op == "Erf":
            inner = factors(node.inputs[0])
            need(
                len(inner.tensors) == 1 and close(inner.number, math.sqrt(0.5)), "the argument of Erf is not x / sqrt 2"
            )
            x = inner.tensors[0]
        else:
            x = _cubic(node)
        plus = self._only(node, model)
        need(plus.op == "Add" and any(close(scalar(t) or 0.0, 1.0) for t in plus.inputs), "1 is not added")
        last = plus
        for _ in range(4):
            parts = factors(last.outputs[0])
            product = _without(parts.tensors, plus.outputs[0])
            if product is not None and len(product) == 1 and close(parts.number, 0.5):
                if product[0] is not x:
                    raise Miss("what is multiplied is not the argument")
                return x, last, "none" if node.op == "Erf" else "tanh"
            last = self._only(last, model)
            need(last.op in ("Mul", "Div"), f"{last.op} in the chain")
        raise Miss("the product is not 0.5 x (1 + ...)")

    @staticmethod
    def _only(node: gs.Node, model: Model) -> gs.Node:
        following = only_reader(node.outputs[0], model)
        if following is None:
            raise Miss(f"{node.outputs[0].name} has other readers")
        return following

    def rewrite(self, node: gs.Node, match: tuple[gs.Tensor, gs.Node, Literal["none", "tanh"]], model: Model) -> None:
        """Write one Gelu node."""
        x, last, approximate = match
        y = append(model, "Gelu", [x], like=last.outputs[0], base=f"{last.name}_gelu", approximate=approximate)
        replace_output(model, last, 0, y)
        last.outputs.clear()


def _without(tensors: tuple[gs.Tensor, ...], one: gs.Tensor) -> list[gs.Tensor] | None:
    """The factors without one occurrence of ``one``; None if it is not among them."""
    rest = [t for t in tensors if t is not one]
    return rest if len(rest) == len(tensors) - 1 else None


def _cubic(node: gs.Node) -> gs.Tensor:
    """The x of tanh(sqrt(2 / pi) (x + 0.044715 x^3)) or tanh(sqrt(2 / pi) x (1 + 0.044715 x^2))."""
    outer = factors(node.inputs[0])
    need(close(outer.number, math.sqrt(2 / math.pi)), "the argument of Tanh is not that of Gelu")
    for inside in outer.tensors:
        made = producer(inside)
        if made is None or made.op != "Add":
            continue
        rest = _without(outer.tensors, inside)
        for one, other in (made.inputs, reversed(made.inputs)):
            cubic = _powers(other)
            if cubic is None or not close(cubic[1], 0.044715):
                continue
            x, _, power = cubic
            if rest == [] and power == 3 and one is x:
                return x
            if rest is not None and len(rest) == 1 and rest[0] is x and power == 2 and close(scalar(one) or 0.0, 1.0):
                return x
    raise Miss("the argument of Tanh is not that of Gelu")


def _powers(tensor: gs.Tensor) -> tuple[gs.Tensor, float, int] | None:
    """(x, number, power) of a product number * x^power."""
    parts = factors(tensor)
    base: gs.Tensor | None = None
    power = 0
    for part in parts.tensors:
        made = producer(part)
        exponent = scalar(made.inputs[1]) if made is not None and made.op == "Pow" else None
        root, count = (made.inputs[0], int(exponent)) if made is not None and exponent is not None else (part, 1)
        if base is not None and root is not base:
            return None
        base, power = root, power + count
    return (base, parts.number, power) if base is not None else None
