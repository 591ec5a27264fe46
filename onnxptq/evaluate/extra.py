"""Packages of the extra ``eval``, imported on demand, with a clear line where one is missing."""

from __future__ import annotations

import importlib
from typing import Any

from onnxptq.errors import InputError


def extra(module: str) -> Any:
    """A module of an optional package, or an InputError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"this task needs {package}, which is not installed: pip install 'onnxptq[eval]'") from None
