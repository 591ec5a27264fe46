"""Element types of tensors in ONNX and in graphsurgeon."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.model import Model, is_readable


def element_type(tensor: gs.Tensor) -> int:
    """ONNX element type of a tensor, 0 if unknown."""
    dtype = tensor.export_dtype if isinstance(tensor, gs.Constant) else tensor.dtype
    if dtype is None:
        return 0
    return dtype if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def dtype_of(element: int) -> Any:
    """graphsurgeon's name for an element type."""
    return element if element == onnx.TensorProto.BFLOAT16 else onnx.helper.tensor_dtype_to_np_dtype(element)


def constant_array(tensor: gs.Constant, model: Model) -> NDArray[Any] | None:
    """The array of a constant; None for text and for types that NumPy does not have."""
    if tensor.name in model.tensors or not is_readable(tensor):
        return None
    return np.asarray(tensor.values)


def element_of(dtype: Any) -> int:
    """Element type of a ConstantOfShape with or without a value."""
    return onnx.TensorProto.FLOAT if dtype is None else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
