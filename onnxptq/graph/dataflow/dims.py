"""Arithmetic of dimensions: an int, a symbol such as ``N`` or ``25*N``, or None if unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence

Dim = int | str | None
SYMBOL = re.compile(r"[A-Za-z_][\w.]*")


def _monomial(dim: int | str) -> tuple[int, tuple[str, ...]]:
    """Coefficient and sorted symbols; any other expression counts as one symbol."""
    if isinstance(dim, int):
        return dim, ()
    factors = dim.split("*")
    if all(SYMBOL.fullmatch(f) or f.isdigit() for f in factors):
        coefficient = 1
        for factor in factors:
            coefficient *= int(factor) if factor.isdigit() else 1
        return coefficient, tuple(sorted(f for f in factors if not f.isdigit()))
    return 1, (dim,)


def _text(coefficient: int, symbols: tuple[str, ...]) -> int | str:
    if not symbols or coefficient == 0:
        return coefficient
    if len(symbols) == 1 and coefficient == 1:
        return symbols[0]
    parts = [s if SYMBOL.fullmatch(s) or (s.startswith("(") and s.endswith(")")) else f"({s})" for s in symbols]
    return "*".join(([str(coefficient)] if coefficient != 1 else []) + parts)


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if a == 0 or b == 0:
        return 0
    if a is None or b is None:
        return None
    (x, s), (y, t) = _monomial(a), _monomial(b)
    return _text(x * y, tuple(sorted(s + t)))


def product(dims: Sequence[Dim]) -> Dim:
    """The number of elements of a tensor of these dimensions."""
    total: Dim = 1
    for dim in dims:
        total = mul(total, dim)
    return total


def quotient(a: Dim, b: Dim) -> Dim:
    """a / b where b divides a, else None."""
    if a is None or b is None or b == 0:
        return None
    (x, s), (y, t) = _monomial(a), _monomial(b)
    left = list(s)
    for symbol in t:
        if symbol not in left:
            return None
        left.remove(symbol)
    return _text(x // y, tuple(left)) if y and x % y == 0 else None


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    (x, s), (y, t) = _monomial(a), _monomial(b)
    if s == t:
        return _text(x + y, s)
    return b if a == 0 else a if b == 0 else f"({a} + {b})"


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    (x, s), (y, t) = _monomial(a), _monomial(b)
    if s == t:
        return _text(x - y, s)
    return a if b == 0 else f"({a} - {b})"


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b of two sizes. Negative operands give None, since ONNX's Div truncates."""
    if a is None or b is None or b == 0 or (isinstance(b, int) and b < 0):
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a >= 0 else -(-a // b)
    exact = quotient(a, b)
    return exact if exact is not None else f"({a} // {b})"


def mod(a: Dim, b: Dim) -> Dim:
    """a % b with b > 0."""
    if a is None or b is None or (isinstance(b, int) and b <= 0):
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return 0 if isinstance(b, int) and _monomial(a)[0] % b == 0 else f"({a} % {b})"


def equal(a: Dim, b: Dim) -> Dim:
    """1 or 0 if it is certain whether a equals b, else None.

    A symbol without a minus is a size, so never negative.
    """
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    if a == b:
        return 1
    number, symbol = (a, b) if isinstance(a, int) else (b, a)
    return 0 if isinstance(number, int) and number < 0 and "-" not in str(symbol) else None


def broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """The broadcast shape of two tensors; an ambiguous dimension is None."""
    rank = max(len(a), len(b))
    left = [1] * (rank - len(a)) + list(a)
    right = [1] * (rank - len(b)) + list(b)
    out: list[Dim] = []
    for x, y in zip(left, right, strict=True):
        if x == y or y == 1:
            out.append(x)
        elif x == 1:
            out.append(y)
        else:
            out.append(next((d for d in (x, y) if isinstance(d, int)), None))
    return tuple(out)
