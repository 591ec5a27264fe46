"""Segment Anything as one file: image uint8 [H, W, 3] and boxes [n, 4] to masks bool [n, H, W] and scores [n].

There must be at least one box.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from onnxptq.datasets.prompts import SAM_MEAN, SAM_STD
from onnxptq.errors import InputError
from onnxptq.package.image import masks_from_low_resolution, scaled_boxes, to_longest_side
from onnxptq.package.join import OPSET, join, part, standard_opset


def package_sam(encoder: str | Path, decoder: str | Path) -> onnx.ModelProto:
    """Join both halves, as `onnxptq export sam` writes them (quantized or not), with pre- and post-processing."""
    models = [onnx.load(str(path)) for path in (encoder, decoder)]
    opset = max(OPSET, *(standard_opset(m) for m in models))
    size = _side(models[0], encoder)
    wanted = {"image_embeddings", "point_coords", "point_labels"}
    names = {i.name for i in models[1].graph.input}
    if names != wanted:
        raise InputError(
            f"decoder {decoder}: its inputs are {', '.join(sorted(names))}; package needs {', '.join(sorted(wanted))}"
        )
    outputs = {o.name for o in models[1].graph.output}
    if not {"low_res_masks", "iou_predictions"} <= outputs:
        raise InputError(
            f"decoder {decoder}: its outputs are {', '.join(sorted(outputs))}; package needs low_res_masks, "
            f"iou_predictions"
        )
    image = models[0].graph.input[0].name
    embeddings = models[0].graph.output[0].name
    parts = [part(models[0], "encoder/", opset), part(models[1], "decoder/", opset)]
    links = {
        f"encoder/{image}": "pixels",
        "decoder/image_embeddings": f"encoder/{embeddings}",
        "decoder/point_coords": "coords",
        "decoder/point_labels": "labels",
    }
    post = masks_from_low_resolution(size)
    for node in post.node:
        for i, name in enumerate(node.input):
            node.input[i] = {"low_res": "decoder/low_res_masks", "all_scores": "decoder/iou_predictions"}.get(
                name, name
            )
    return join(
        "sam",
        parts,
        [to_longest_side(size, SAM_MEAN, SAM_STD), scaled_boxes(), post],
        inputs=[
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4]),
        ],
        outputs=[
            helper.make_tensor_value_info("masks", TensorProto.BOOL, ["n", "height", "width"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"]),
        ],
        links=links,
        opset=opset,
    )


def _side(model: onnx.ModelProto, path: str | Path) -> int:
    """Side of the one image input."""
    inputs = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] < 1:
        raise InputError(
            f"encoder {path}: expected one image input [n, 3, S, S] of a fixed size, found "
            f"{[i.name for i in inputs]} {shape}"
        )
    return int(shape[2])
