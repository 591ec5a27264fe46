"""onnxruntime's own dynamic quantization of a model, the yardstick of the guard."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx


def dynamically_quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with MatMuls in 8 bits, weights by channel and inputs by their range at run time, the rest in float."""
    from onnxruntime.quantization import quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(model, path, per_channel=True, op_types_to_quantize=["MatMul"])
            return onnx.load(path)
    finally:
        logging.disable(before)
