"""Data of tensors: inside a message, or in a file beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

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
KEEP = 1024
"""Bytes up to which a tensor stays inside the protobuf message while the graph is imported."""


def take(tensor: onnx.TensorProto, folder: Path | None, name: str) -> NDArray[Any]:
    """The array of a tensor; its bytes are not copied again, and files are mapped."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if uses_external_data(tensor):
        path, offset, length = _external(tensor, folder, name)
        wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if length is not None and length != wanted:
            raise InputError(
                f"{name}: tensor {tensor.name!r} needs {wanted} bytes, its external data has {length}; export the "
                f"model again"
            )
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    if tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, dtype=dtype)
        tensor.ClearField("raw_data")
        if data.size != int(np.prod(shape, dtype=np.int64)):
            raise InputError(
                f"{name}: tensor {tensor.name!r} holds {data.size} values where its shape {list(shape)} asks for "
                f"another number"
            )
        return data.reshape(shape)
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except ValueError as error:
        raise InputError(f"{name}: tensor {tensor.name!r} cannot be read: {error}") from error


def inlined(tensor: onnx.TensorProto, folder: Path | None, name: str) -> onnx.TensorProto:
    """The tensor with its data inside."""
    if not uses_external_data(tensor):
        return tensor
    path, offset, length = _external(tensor, folder, name)
    copy = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    with open(path, "rb") as file:
        file.seek(offset)
        copy.raw_data = file.read(-1 if length is None else length)
    return copy


def _external(tensor: onnx.TensorProto, folder: Path | None, name: str) -> tuple[Path, int, int | None]:
    """File, offset and length of external data, checked to be there."""
    info = ExternalDataInfo(tensor)
    if folder is None:
        raise InputError(
            f"{name}: tensor {tensor.name!r} lies in the external file {info.location!r}; give the model's path "
            f"instead of its bytes"
        )
    location = Path(info.location)
    path = folder / location
    if location.is_absolute() or ".." in location.parts:
        raise InputError(f"{name}: external data {info.location!r} lies outside the model's folder")
    if not path.is_file():
        raise InputError(
            f"{name}: external data file {info.location!r} is missing beside the model; copy it to {folder}"
        )
    offset = int(info.offset or 0)
    length = int(info.length) if info.length else None
    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.data_type in NUMPY_HOLDS else 0
    end = offset + (length if length is not None else int(np.prod(tensor.dims, dtype=np.int64)) * width)
    if os.path.getsize(path) < end:
        raise InputError(
            f"{name}: external data file {info.location!r} has {os.path.getsize(path)} bytes, {end} are needed; copy "
            f"it again"
        )
    return path, offset, length


def is_heavy(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data stay out of the message while the graph is imported."""
    return tensor.data_type in NUMPY_HOLDS and int(np.prod(tensor.dims, dtype=np.int64)) > KEEP
