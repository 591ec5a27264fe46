"""What needs gradients: ONNX graphs run in torch, and the Fisher information of their inner tensors. Extra ``[learn]``.

Importing this package loads no torch; its modules do, so import them inside functions once ``available`` says yes.
"""

from __future__ import annotations

from importlib.util import find_spec


def available() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None
