"""Trained zoo checkpoints to the ONNX files the package carries (`onnxptq export zoo`).

Weights are stored as FP16 with a Cast each, wherever that is exact, so that the files are half the size and compute in
FP32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxptq.models.export import Exported
from onnxptq.models.lavt.to_onnx import export_lavt
from onnxptq.models.sam.to_onnx import export_decoder, export_encoder
from onnxptq.models.zoo.checkpoints import load_lavt, load_sam

_SMALL = 64  # elements below which a Cast costs more than it saves


def store_half(path: Path) -> None:
    """Rewrite a model in place: every float32 initialiser that is exact in half precision becomes FP16 + Cast."""
    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if value.size < _SMALL or not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}/widen", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def embed_sam(checkpoint: str | Path, folder: Path) -> list[Exported]:
    """sam-mini-encoder.onnx and sam-mini-decoder.onnx."""
    sam = load_sam(checkpoint)
    written = [
        export_encoder(sam, folder / "sam-mini-encoder.onnx", dynamic_batch=True),
        export_decoder(sam, folder / "sam-mini-decoder.onnx"),
    ]
    for one in written:
        store_half(one.path)
    return written


def embed_lavt(checkpoint: str | Path, folder: Path) -> Exported:
    """lavt-mini.onnx."""
    written = export_lavt(load_lavt(checkpoint), folder / "lavt-mini.onnx", dynamic_batch=True)
    store_half(written.path)
    return written
