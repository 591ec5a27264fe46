"""Tensor data: inside the protobuf message, or in an external file beside the model."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from onnxptq.errors import InputError

NUMPY_HOLDS = frozenset(
    getattr(onnx.TensorProto, name)
    for name in [
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "BFLOAT16",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "BOOL",
    ]
)
PACKED = {
    getattr(onnx.TensorProto, name): count
    for name, count in {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}.items()
    if name in dict(onnx.TensorProto.DataType.items())
}
"""Values of an element type that share one byte, or one number of the integer field."""
LONGEST = 1024
"""Maximum length of the name of an external file."""
KEEP = 1024
"""Number of values up to which a tensor stays inside the protobuf message during import."""


def take(tensor: onnx.TensorProto, model: Path | None, name: str) -> NDArray[Any]:
    """The array of a tensor, if NumPy has its type; raw bytes are not copied again."""
    if uses_external_data(tensor):
        return np.frombuffer(_read(tensor, model, name), dtype=_dtype(tensor)).reshape(tuple(tensor.dims))
    if tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, dtype=_dtype(tensor))
        tensor.ClearField("raw_data")
        return data.reshape(tuple(tensor.dims))
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def inlined(tensor: onnx.TensorProto, model: Path | None, name: str) -> onnx.TensorProto:
    """The tensor with its data inside the message."""
    if not uses_external_data(tensor):
        return tensor
    copy = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    copy.raw_data = _read(tensor, model, name)
    return copy


def size(tensor: onnx.TensorProto) -> int:
    """Size of a tensor's data in bytes."""
    count = int(math.prod(tensor.dims))
    packed = PACKED.get(tensor.data_type)
    return -(-count // packed) if packed else count * int(_dtype(tensor).itemsize)


def check(tensor: onnx.TensorProto, name: str) -> None:
    """Fail if the number of values in the message does not match the shape."""
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        raise InputError(
            f"{name}: tensor {tensor.name!r} has the unknown type {tensor.data_type}; export the model again"
        )
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"{name}: tensor {tensor.name!r} has a negative size; export the model again")
    if tensor.HasField("segment"):
        raise InputError(f"{name}: tensor {tensor.name!r} is a segment of one, which is not supported")
    if tensor.data_type == onnx.TensorProto.STRING or uses_external_data(tensor):
        return
    if tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), size(tensor), "bytes"
    else:
        wanted, unit = math.prod(tensor.dims), "values"
        held = max(len(tensor.float_data), len(tensor.double_data), len(tensor.int64_data), len(tensor.uint64_data))
        if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
            wanted *= 2
        if tensor.int32_data:
            held = len(tensor.int32_data)
            wanted = -(-wanted // PACKED.get(tensor.data_type, 1))
    if held != wanted:
        raise InputError(
            f"{name}: tensor {tensor.name!r} of shape {list(tensor.dims)} needs {wanted} {unit}, it has {held}; export "
            f"the model again"
        )


def is_heavy(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data stays out of the message during import."""
    return tensor.data_type in NUMPY_HOLDS and math.prod(tensor.dims) > KEEP


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _read(tensor: onnx.TensorProto, model: Path | None, name: str) -> bytes:
    """Read a tensor's bytes from an external file; a copy, since a memory map crashes when the file is truncated."""
    path, location = _file(tensor, model, name)
    wanted = size(tensor)
    offset, length = (_number(tensor, key, name) for key in ("offset", "length"))
    if length is not None and length != wanted:
        raise InputError(
            f"{name}: tensor {tensor.name!r} needs {wanted} bytes, its external data has {length}; export the model "
            f"again"
        )
    end = (offset or 0) + wanted
    with open(path, "rb") as file:
        there = os.fstat(file.fileno()).st_size
        if there >= end:
            file.seek(offset or 0)
            data = file.read(wanted)
            if len(data) == wanted:
                return data
    raise InputError(f"{name}: external data file {location!r} has {there} bytes, {end} are needed; copy it again")


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    """The entry of external data under a key."""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == key), "")


def _number(tensor: onnx.TensorProto, key: str, name: str) -> int | None:
    """Offset or length of external data, if given."""
    text = _entry(tensor, key)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InputError(
            f"{name}: tensor {tensor.name!r}: {key} {text[:40]!r} of its external data is no size; export the "
            f"model again"
        )
    return int(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _file(tensor: onnx.TensorProto, model: Path | None, name: str) -> tuple[Path, str]:
    """The file of external data; it lies in the folder of the model, or of the file that the model links to."""
    location = _entry(tensor, "location")
    shown = location[:200]
    if model is None:
        raise InputError(
            f"{name}: tensor {tensor.name!r} lies in the external file {shown!r}; give the model's path instead of its "
            f"bytes"
        )
    inner = Path(location)
    if not location or len(location) > LONGEST or "\0" in location or inner.is_absolute() or ".." in inner.parts:
        raise InputError(f"{name}: external data {shown!r} lies outside the model's folder")
    path = model.parent / inner
    if not _exists(path):
        raise InputError(f"{name}: external data file {shown!r} is missing beside the model; copy it to {model.parent}")
    real = Path(os.path.realpath(path))
    homes = (os.path.realpath(model.parent), os.path.dirname(os.path.realpath(model)))
    if not any(real.is_relative_to(home) for home in homes):
        raise InputError(f"{name}: external data {shown!r} is a link out of the model's folder; copy the file there")
    if not real.is_file():
        raise InputError(f"{name}: external data {shown!r} is no regular file")
    return path, shown
