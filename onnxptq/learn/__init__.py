"""Gradients: ONNX graphs run in torch, and the Fisher information of their inner tensors. Extra ``[learn]``.

Importing this package loads no torch, but importing its modules does: import them inside functions after a check of
``available``.
"""

from __future__ import annotations

from importlib.util import find_spec


def available() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None
