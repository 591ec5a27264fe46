"""The op domain ``onnxptq``: schemes (k-bit codes of floats) and ops, found by walking this package."""

from __future__ import annotations

if __name__ != "onnxptq.ops":
    raise ImportError("this folder is imported as onnxptq.ops")

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxptq.ops.scheme import Scheme
    from onnxptq.ops.spec import OpSpec

DOMAIN = "onnxptq"
VERSION = 1


@functools.cache
def _load() -> None:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if not module.ispkg and module.name != "pyops":
            importlib.import_module(f"onnxptq.ops.{module.name}")


def schemes() -> dict[str, Scheme[Any]]:
    """Every registered scheme by name, sorted."""
    _load()
    from onnxptq.ops.scheme import REGISTRY

    return dict(sorted(REGISTRY.items()))


def specs() -> dict[str, OpSpec]:
    """Every registered op by name, sorted."""
    _load()
    from onnxptq.ops.spec import REGISTRY

    return dict(sorted(REGISTRY.items()))
