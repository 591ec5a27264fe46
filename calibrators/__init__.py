"""Calibrators: searches for the parameters of schemes, one file each, found by walking this package."""

from __future__ import annotations

if __name__ != "onnxptq.calibrators":
    raise ImportError("this folder is imported as onnxptq.calibrators")

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxptq.calibrators.base import Calibrator
    from onnxptq.calibrators.weight_base import WeightCalibrator


@functools.cache
def _load() -> None:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        importlib.import_module(f"onnxptq.calibrators.{module.name}")


def calibrators() -> dict[str, Calibrator]:
    """Every calibrator of activations by name."""
    _load()
    from onnxptq.calibrators.base import REGISTRY

    return dict(sorted(REGISTRY.items()))


def weight_calibrators() -> dict[str, WeightCalibrator]:
    """Every calibrator of weights by name."""
    _load()
    from onnxptq.calibrators.weight_base import REGISTRY

    return dict(sorted(REGISTRY.items()))
