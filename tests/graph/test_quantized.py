"""Quantized models are refused before any work, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from onnxptq import Quantizer
from onnxptq.errors import InputError
from tests.graph.build import model, normal

TEXT = "g (float[4,32] x) => (float[4,32] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }"


def plain() -> onnx.ModelProto:
    return model(TEXT, opset=21, w=normal(32, 32))


def dynamic(folder: Path) -> onnx.ModelProto:
    onnx.save(plain(), folder / "plain.onnx")
    quantize_dynamic(folder / "plain.onnx", folder / "quantized.onnx", weight_type=QuantType.QUInt8)
    return onnx.load(folder / "quantized.onnx")


def nbits(folder: Path) -> onnx.ModelProto:
    quantizer = MatMulNBitsQuantizer(plain(), block_size=32)
    quantizer.process()
    held: onnx.ModelProto = quantizer.model.model
    return held


def qdq(folder: Path) -> onnx.ModelProto:
    text = TEXT.replace("MatMul(x, w)", "MatMul(d, w)").replace(
        "h =", "c = QuantizeLinear(x, s, z) d = DequantizeLinear(c, s, z) h ="
    )
    return model(text, opset=21, w=normal(32, 32), s=np.float32(0.1), z=np.uint8(3))


def ours(folder: Path) -> onnx.ModelProto:
    one = Quantizer(plain(), recipe="minmax", threads=1)
    one.calibrate([{"x": normal(4, 32)}])
    return one.quantize().model


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (dynamic, "is quantized already .it holds 2 DynamicQuantizeLinear, 2 MatMulInteger"),
        (nbits, "is quantized already .it holds 2 MatMulNBits"),
        (qdq, "is quantized already .it holds 1 QuantizeLinear, 1 DequantizeLinear"),
        (ours, "is a quantized model written by onnxptq"),
    ],
)
def test_a_quantized_model_is_refused(make: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"model: {what}.*; give the float model it was made from") as caught:
        Quantizer(make(tmp_path))
    assert "\n" not in str(caught.value)
