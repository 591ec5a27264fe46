"""Segment Anything's own ONNX decoder, as its export script makes it: masks resized to a size that is an input."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import pytest

from onnxptq import Quantizer

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

SIDE, DIM = 128, 32


@pytest.mark.slow
def test_the_official_decoder_goes_through(tmp_path: Path) -> None:
    from onnxptq.models.sam.build import build
    from onnxptq.models.sam.config import SamConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"embed_dim": 48, "depth": 1, "heads": 3, "window": 4, "global_attention": (0,), "prompt_dim": DIM}
        sam = build(SamConfig(SIDE, decoder_heads=4, decoder_mlp=64, iou_hidden=32, **sizes)).eval()
        whole = importlib.import_module("segment_anything.utils.onnx").SamOnnxModel(sam, return_single_mask=False)
        inputs = {
            "image_embeddings": torch.randn(1, DIM, SIDE // 16, SIDE // 16),
            "point_coords": torch.randint(0, SIDE, (1, 5, 2)).float(),
            "point_labels": torch.randint(0, 4, (1, 5)).float(),
            "mask_input": torch.zeros(1, 1, SIDE // 4, SIDE // 4),
            "has_mask_input": torch.zeros(1),
            "orig_im_size": torch.tensor([90.0, 120.0]),
        }
    path, points = tmp_path / "decoder.onnx", {1: "points"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            tuple(inputs.values()),
            str(path),
            opset_version=17,
            input_names=list(inputs),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": points, "point_labels": points},
            dynamo=False,
        )
    q = Quantizer(path, bits="w8a8", threads=1)
    q.calibrate([{name: array.numpy() for name, array in inputs.items()}] * 2)
    result = q.quantize()
    assert all(one.sqnr is not None and one.sqnr > 30 for one in result.report.outputs.values())
    assert sum(node.op_type == "QAttention" for node in result.model.graph.node) == 7
