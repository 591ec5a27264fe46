"""Torch modules to ONNX through either of torch's exporters, with torch's outputs kept for checking."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxptq.errors import InputError

Exporter = Literal["torchscript", "dynamo"]
OPSET: dict[Exporter, int] = {"torchscript": 17, "dynamo": 18}
"""The opset each exporter writes: TorchScript's last one with LayerNormalization checked here, dynamo's native one."""

_ONE_FILE = 2**31 - 2**24  # protobuf's limit, less what the graph itself needs


@dataclass(frozen=True)
class Exported:
    """A written model, sample inputs, and torch's outputs for them."""

    path: Path
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, NDArray[Any]]


def export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: str | Path,
    *,
    exporter: Exporter = "torchscript",
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    opset: int | None = None,
    check: Mapping[str, Tensor] | None = None,
) -> Exported:
    """Write ``module`` as ONNX.

    ``dynamic`` names the dynamic axes of inputs (and of outputs, which only TorchScript asks for); ``check`` holds
    further inputs for torch's outputs, for example of other dynamic sizes. Weights above protobuf's 2 GB go to
    PATH.data beside the file.
    """
    if exporter not in OPSET:
        raise InputError(f"exporter '{exporter}': choose torchscript or dynamo")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    module = module.eval()
    version = opset or OPSET[exporter]
    axes = {name: dict(named) for name, named in (dynamic or {}).items()}
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            if exporter == "torchscript":
                _torchscript(module, inputs, outputs, path, axes, version, large=size > _ONE_FILE)
            else:
                _dynamo(module, inputs, outputs, path, axes, version, large=size > _ONE_FILE)
        finally:
            log.setLevel(level)
        feeds = dict(check or inputs)
        result = module(*feeds.values())
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    return Exported(
        path,
        {name: value.numpy() for name, value in feeds.items()},
        {name: value.numpy() for name, value in zip(outputs, tensors, strict=True)},
    )


def _torchscript(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    axes: dict[str, dict[int, str]],
    opset: int,
    *,
    large: bool,
) -> None:
    # PRESERVE keeps BatchNormalization: folding it is a pass of ours, and the weights stay the trained ones.
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=axes,
        opset_version=opset,
        do_constant_folding=True,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    if large:
        _gather_external(path)


def _dynamo(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    axes: dict[str, dict[int, str]],
    opset: int,
    *,
    large: bool,
) -> None:
    symbols: dict[str, Any] = {}
    shapes = tuple(
        {axis: symbols.setdefault(name, torch.export.Dim.DYNAMIC) for axis, name in axes.get(key, {}).items()} or None
        for key in inputs
    )
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=shapes if axes else None,
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=large)


def _gather_external(path: Path) -> None:
    """TorchScript writes one file a weight above 2 GB: gather them into one beside the model."""
    model = onnx.load(str(path))
    scattered = {path.parent / e.value for t in _stubs(path) for e in t.external_data if e.key == "location"}
    for file in scattered:
        file.unlink(missing_ok=True)
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
    data.chmod(path.stat().st_mode)


def _stubs(path: Path) -> list[onnx.TensorProto]:
    bare = onnx.load(str(path), load_external_data=False)
    return [t for t in bare.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def largest_error(exported: Exported, outputs: Mapping[str, NDArray[Any]]) -> float:
    """Largest difference from torch over all outputs, relative to each output's largest value."""
    worst = 0.0
    for name, want in exported.expected.items():
        got = np.asarray(outputs[name], np.float64)
        if got.shape != want.shape:
            raise ValueError(f"output {name}: shape {got.shape}, torch gives {want.shape}")
        worst = max(worst, float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-12)))
    return worst
