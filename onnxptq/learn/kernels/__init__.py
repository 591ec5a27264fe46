"""ONNX ops of opset 21 in torch, one file per family; a public function named like an op implements it.

Inputs are positional (``None`` for an absent one), attributes keyword-only with ONNX's defaults. A parameter annotated
``Ints`` or ``Floats`` takes plain numbers instead of a tensor; a parameter named ``outputs`` receives the number of
outputs.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from onnx import defs


@dataclass(frozen=True)
class Kernel:
    """The implementation of one op."""

    call: Callable[..., Any]
    plain: frozenset[int] = frozenset()
    """Positions of inputs that are plain numbers."""
    attributes: frozenset[str] = frozenset()
    counts: bool = False
    """Whether it takes the number of outputs."""

    @classmethod
    def of(cls, call: Callable[..., Any]) -> Kernel:
        """A kernel from a function's signature; functions without one (torch's own) take tensors only."""
        try:
            parameters = list(inspect.signature(call).parameters.values())
        except ValueError:
            return cls(call)
        named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        plain = {i for i, p in enumerate(parameters) if str(p.annotation).startswith(("Ints", "Floats"))}
        return cls(call, frozenset(plain), frozenset(named - {"outputs"}), "outputs" in named)


@cache
def kernels() -> Mapping[str, Kernel]:
    """All kernels by op name."""
    found: dict[str, Kernel] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for name, call in vars(import_module(f"{__name__}.{info.name}")).items():
            if callable(call) and defs.has(name):
                if name in found:
                    raise TypeError(f"two kernels are named {name}, one of them in {info.name}")
                found[name] = Kernel.of(call)
    return dict(sorted(found.items()))
