"""Conversion of ONNX arrays and element types to torch.

Torch does not compute with unsigned integers above 8 bits or with 4-bit ones: the next wider type holds these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper
from torch import Tensor

from onnxptq.errors import InputError

CARRIERS: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT4: torch.int8,
}
"""ONNX element type -> the torch type that holds its values."""
_MASKS: dict[int, int] = {TensorProto.UINT16: 0xFFFF, TensorProto.UINT32: 0xFFFFFFFF, TensorProto.UINT4: 0xF}


def carrier(kind: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    if kind not in CARRIERS:
        raise InputError(f"torch executor: element type {TensorProto.DataType.Name(kind)} is not supported")
    return CARRIERS[kind]


def convert(x: Tensor, kind: int) -> Tensor:
    """``x`` as another ONNX element type; integers wrap around."""
    held = carrier(kind)
    return (x.to(torch.int64) & _MASKS[kind]).to(held) if kind in _MASKS else x.to(held)


def from_array(array: ArrayLike) -> Tensor:
    """A tensor of its own memory with the values of ``array``."""
    given = np.asarray(array)
    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    held = np.dtype(str(carrier(kind)).removeprefix("torch."))
    return torch.from_numpy(np.array(given, held, order="C"))


def to_array(x: Tensor, kind: int | None = None) -> NDArray[Any]:
    """The values of ``x`` as an array, in the NumPy type of an ONNX element type if given."""
    array: NDArray[Any] = x.detach().cpu().numpy()
    return array if kind is None else array.astype(helper.tensor_dtype_to_np_dtype(kind), copy=False)
