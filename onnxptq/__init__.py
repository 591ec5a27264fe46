"""Post-training quantization of segmentation transformers in ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxptq.version import __version__

_HOME = {
    "ArtifactError": "onnxptq.errors",
    "InputError": "onnxptq.errors",
    "Plan": "onnxptq.plan",
    "Quantizer": "onnxptq.quantizer",
    "Recipe": "onnxptq.recipe",
    "Report": "onnxptq.report.data",
    "Result": "onnxptq.result",
    "Structure": "onnxptq.structure",
    "library_path": "onnxptq.running.sessions",
    "session": "onnxptq.running.sessions",
}

__all__ = [
    "ArtifactError",
    "InputError",
    "Plan",
    "Quantizer",
    "Recipe",
    "Report",
    "Result",
    "Structure",
    "__version__",
    "library_path",
    "session",
]

if TYPE_CHECKING:
    from onnxptq.errors import ArtifactError, InputError
    from onnxptq.plan import Plan
    from onnxptq.quantizer import Quantizer
    from onnxptq.recipe import Recipe
    from onnxptq.report.data import Report
    from onnxptq.result import Result
    from onnxptq.running.sessions import library_path, session
    from onnxptq.structure import Structure


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
