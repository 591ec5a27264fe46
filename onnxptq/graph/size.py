"""Size of a model, and a hash that identifies it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from onnxptq.graph.model import Model, is_readable
from onnxptq.graph.save import LIMIT, payload
from onnxptq.graph.tidy import tensors


def source_size(model: str | Path | bytes | onnx.ModelProto) -> int:
    """Size in bytes of the given model, external data included."""
    if isinstance(model, onnx.ModelProto):
        # ByteSize fails for messages above the protobuf limit.
        weight = payload(model)
        return weight if weight > LIMIT else int(model.ByteSize())
    if isinstance(model, bytes):
        return len(model)
    return sum(file.stat().st_size for file in source_files(Path(model)))


def source_files(path: Path) -> list[Path]:
    """The files of a model: its own, and those of its external data."""
    proto = onnx.load(path, load_external_data=False)
    files = {
        entry.value
        for tensor in (*proto.graph.initializer, *tensors(proto))
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path, *(path.parent / name for name in sorted(files))]


def digest(model: Model) -> str:
    """Hash of the nodes and constants of a model."""
    held = hashlib.sha256()
    for node in model.graph.nodes:
        names = [t.name for t in (*node.inputs, *node.outputs)]
        held.update(
            f"{node.op} {node.domain} {names} {sorted(node.attrs.items(), key=lambda item: item[0])!r}".encode()
        )
    for constant in sorted(model.constants(), key=lambda c: str(c.name)):
        if not is_readable(constant):
            held.update(constant._values.tensor.SerializeToString(deterministic=True))
            continue
        values = np.ascontiguousarray(constant.values)
        held.update(f"{constant.name} {values.dtype} {values.shape}".encode())
        held.update(values.data)
    return held.hexdigest()
