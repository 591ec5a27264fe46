"""Zoo checkpoints: half-precision safetensors with their configuration inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onnxptq.errors import InputError
from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.lavt.model import LAVT
from onnxptq.models.sam.build import build
from onnxptq.models.sam.config import SamConfig

_DERIVED = ("num_batches_tracked", "relative_position_index", "position_ids")


def load_sam(path: str | Path) -> nn.Module:
    """The zoo's Segment Anything model, computing in float32."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in _config(path).items()}
    return load_into(build(SamConfig(**values)), load_file(path))


def load_lavt(path: str | Path) -> LAVT:
    """The zoo's LAVT, computing in float32."""
    config = replace(LavtConfig.from_dict(_config(path)), fit_windows=True)
    model = LAVT(config)
    load_into(model, load_file(path))
    return model


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load weights, half precision widened; derived buffers may be missing."""
    target = model.state_dict()
    unknown = [name for name in state if name not in target and not name.endswith(_DERIVED)]
    missing, _ = model.load_state_dict(
        {k: v.to(target[k].dtype) for k, v in state.items() if k in target}, strict=False
    )
    missing = [name for name in missing if not name.endswith(_DERIVED)]
    if missing or unknown:
        raise InputError(
            f"checkpoint does not fit the model: {len(missing)} parameters missing, {len(unknown)} unknown, e.g. "
            f"{(missing + unknown)[0]}"
        )
    return model.eval()


def half_state(model: nn.Module) -> dict[str, Tensor]:
    """The state as it is stored: floats in half precision, no derived buffers."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(_DERIVED)}
    return {
        k: (v.detach().half() if v.is_floating_point() else v.detach()).cpu().contiguous() for k, v in state.items()
    }


def save(model: nn.Module, config: SamConfig | LavtConfig, path: Path) -> None:
    """Write a checkpoint for `load_sam` or `load_lavt`, through a temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = config.to_dict() if isinstance(config, LavtConfig) else asdict(config)
    temporary = path.with_suffix(".tmp")
    save_file(half_state(model), temporary, metadata={"config": json.dumps(values)})
    temporary.rename(path)


def _config(path: str | Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            config: dict[str, Any] = json.loads((file.metadata() or {})["config"])
    except (OSError, KeyError) as error:
        raise InputError(
            f"zoo checkpoint {path} cannot be read ({error}): give a file made by the zoo's training"
        ) from None
    return config


def freeze_dropout(model: nn.Module) -> None:
    """No dropout: in training every sample is new."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def parameter_count(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters())


def rounded(model: nn.Module, twin: nn.Module) -> nn.Module:
    """``twin`` with its weights rounded as in the stored file."""
    with torch.no_grad():
        return load_into(twin, half_state(model))
