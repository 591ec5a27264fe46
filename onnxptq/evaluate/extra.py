"""Packages of the extra ``eval``: imported where a task needs one, with a clear line where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from onnxptq.errors import InputError


def extra(module: str) -> Any:
    """A module of an optional package; an InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"this task needs {package}, which is not installed: pip install 'onnxptq[eval]'") from None
