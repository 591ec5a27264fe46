"""Trained zoo checkpoints to the ONNX files the package carries.

    python -m onnxptq.models.zoo.embed --sam sam-mini.safetensors --lavt lavt-mini.safetensors -o onnxptq/data/zoo

Weights are stored as FP16 with a Cast each, wherever that is exact, so that the files are half the size and compute in FP32.
"""

from __future__ import annotations

import argparse
import shutil
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


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", type=Path, help="sam-mini.safetensors")
    parser.add_argument("--lavt", type=Path, help="lavt-mini.safetensors")
    parser.add_argument("--vocab", type=Path, help="lavt-mini.vocab.txt")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    written = (embed_sam(args.sam, args.out) if args.sam else []) + ([embed_lavt(args.lavt, args.out)] if args.lavt else [])
    if args.vocab:
        shutil.copyfile(args.vocab, args.out / "lavt-mini.vocab.txt")
    for one in written:
        print(f"{one.path}: {one.path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
