"""Checkpoint files, read without executing their content."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxptq.errors import InputError


def read(path: str | Path) -> dict[str, Any]:
    """The dictionary of a .pth, .pt or .safetensors file; training arguments beside the weights are allowed."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"checkpoint {path} is no torch checkpoint, or holds more than weights and training arguments"
        ) from None
    except Exception as error:
        raise InputError(f"checkpoint {path} cannot be read ({_reason(error)}): give a torch state dict") from None
    if not isinstance(loaded, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(loaded).__name__}, not a state dict")
    return {str(name): value for name, value in loaded.items()}


def weights(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, floats widened to float32, the prefix of data-parallel training removed."""
    found = {name.removeprefix("module."): value for name, value in values.items() if isinstance(value, Tensor)}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
