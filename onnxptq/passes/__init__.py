"""Equivalence passes: exact in real arithmetic, each verified by outputs before and after."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxptq.passes.base import Pass


@functools.cache
def passes() -> dict[str, Pass]:
    """Every pass by name, found by walking this package."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        importlib.import_module(f"onnxptq.passes.{module.name}")
    from onnxptq.passes.base import REGISTRY

    return dict(sorted(REGISTRY.items()))
