"""Segment Anything with its pre- and post-processing, in one file or in two.

One file: image uint8 [H, W, 3] and boxes [n, 4] (or points) to masks bool [n, H, W] and scores [n]. Two files: the
image is encoded once, and the decoder has the inputs and outputs of Segment Anything's own ONNX decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxptq.datasets.prompts import SAM_MEAN, SAM_STD
from onnxptq.errors import InputError
from onnxptq.graph.source import whole
from onnxptq.package.image import masks_from_low_resolution, official_masks, to_longest_side
from onnxptq.package.join import OPSET, join, part, standard_opset
from onnxptq.package.prompts import no_mask, official_prompts, scaled_boxes, scaled_points

Prompts = Literal["boxes", "points"]
PROMPTS = {"image_embeddings", "point_coords", "point_labels"}
MASK = {"mask_input", "has_mask_input"}
_OWN = {"low_res": "decoder/low_res_masks", "all_scores": "decoder/iou_predictions"}
_INFO = helper.make_tensor_value_info
_ONE = {
    "boxes": "sam: image uint8 [H, W, 3] and boxes [n, 4] (x0, y0, x1, y1 in its pixels) to masks bool [n, H, W] and "
    "scores",
    "points": "sam: image uint8 [H, W, 3], point_coords [n, k, 2] (x, y in its pixels), point_labels [n, k] (1 on the "
    "object, 0 beside it, 2 and 3 corners of a box, -1 padding) to masks bool [n, H, W], scores",
}
_ENCODER = "sam encoder: image uint8 [H, W, 3] to image_embeddings, once an image; longer side of the network {size}"
_DECODER = (
    "sam decoder in Segment Anything's own layout: point_coords [n, k, 2] in pixels of the image resized to a longer "
    "side of {size}, point_labels [n, k] (1 on the object, 0 beside it, 2 and 3 corners of a box, -1 padding), "
    "orig_im_size (height, width); masks are logits at that size, positive on the object"
)


def package_sam(encoder: str | Path, decoder: str | Path, prompts: Prompts = "boxes") -> onnx.ModelProto:
    """Join both halves, as `onnxptq export sam` writes them (quantized or not), with pre- and post-processing."""
    first, second = _Encoder.load(encoder), _Decoder.load(decoder)
    opset = max(OPSET, standard_opset(first.model), standard_opset(second.model))
    links = {
        f"encoder/{first.image}": "pixels",
        "decoder/image_embeddings": f"encoder/{first.embeddings}",
        "decoder/point_coords": "coords" if prompts == "boxes" else "all_coords",
        "decoder/point_labels": "labels",
        "decoder/mask_input": "without_mask",
        "decoder/has_mask_input": "without_mask_flag",
    }
    given = [_INFO("boxes", TensorProto.FLOAT, ["n", 4])]
    if prompts == "points":
        given = _points()
    return join(
        "sam",
        [part(first.model, "encoder/", opset), part(second.model, "decoder/", opset)],
        [
            to_longest_side(first.size, SAM_MEAN, SAM_STD),
            scaled_boxes() if prompts == "boxes" else scaled_points(),
            second.without_mask(),
            _renamed(masks_from_low_resolution(first.size), _OWN),
        ],
        inputs=[_INFO("image", TensorProto.UINT8, ["height", "width", 3]), *given],
        outputs=[
            _INFO("masks", TensorProto.BOOL, ["n", "height", "width"]),
            _INFO("scores", TensorProto.FLOAT, ["n"]),
        ],
        links=links,
        opset=opset,
        about={"package": _ONE[prompts]},
    )


def package_encoder(encoder: str | Path) -> onnx.ModelProto:
    """The encoder alone: image uint8 [H, W, 3] to image_embeddings."""
    one = _Encoder.load(encoder)
    opset = max(OPSET, standard_opset(one.model))
    made = one.model.graph.output[0].type.tensor_type
    sides = [d.dim_value or d.dim_param or name for d, name in zip(made.shape.dim, "nchw", strict=False)]
    end = onnx.GraphProto(node=[helper.make_node("Identity", [f"encoder/{one.embeddings}"], ["image_embeddings"])])
    return join(
        "sam_encoder",
        [part(one.model, "encoder/", opset)],
        [to_longest_side(one.size, SAM_MEAN, SAM_STD), end],
        inputs=[_INFO("image", TensorProto.UINT8, ["height", "width", 3])],
        outputs=[_INFO("image_embeddings", TensorProto.FLOAT, [1, *sides[1:]])],
        links={f"encoder/{one.image}": "pixels"},
        opset=opset,
        about={"package": _ENCODER.format(size=one.size), "side": str(one.size)},
    )


def package_decoder(encoder: str | Path, decoder: str | Path, *, single: bool = False) -> onnx.ModelProto:
    """The decoder alone, in Segment Anything's own layout; of ``encoder`` only the size of its input is used.

    ``single`` gives one mask a prompt instead of four. A decoder without mask inputs refuses has_mask_input = 1.
    """
    size, one = _Encoder.load(encoder).size, _Decoder.load(decoder)
    opset = max(OPSET, standard_opset(one.model))
    guards = [] if one.takes_mask else [no_mask(one.low)]
    refusal = "" if one.takes_mask else "; mask_input is refused, not used"
    return join(
        "sam_decoder",
        [part(one.model, "decoder/", opset)],
        [official_prompts(), *guards, _renamed(official_masks(size, single=single), _OWN)],
        inputs=[
            _INFO("image_embeddings", TensorProto.FLOAT, one.embeddings),
            *_points(),
            _INFO("mask_input", TensorProto.FLOAT, [1, 1, one.low, one.low]),
            _INFO("has_mask_input", TensorProto.FLOAT, [1]),
            _INFO("orig_im_size", TensorProto.FLOAT, [2]),
        ],
        outputs=[
            _INFO("masks", TensorProto.FLOAT, ["n", 1 if single else 4, "height", "width"]),
            _INFO("iou_predictions", TensorProto.FLOAT, ["n", 1 if single else 4]),
            _INFO("low_res_masks", TensorProto.FLOAT, ["n", 1 if single else 4, one.low, one.low]),
        ],
        links={
            "decoder/image_embeddings": "image_embeddings",
            "decoder/point_coords": "all_coords" if one.takes_mask else "coords",
            "decoder/point_labels": "labels",
            **{f"decoder/{name}": name for name in MASK},
        },
        opset=opset,
        about={"package": _DECODER.format(size=size) + refusal, "side": str(size)},
    )


def input_side(encoder: str | Path) -> int:
    """Side of an encoder's input, in whose pixels the decoder alone takes points."""
    return _Encoder.load(encoder).size


@dataclass(frozen=True)
class _Encoder:
    """An encoder file: the names of its two tensors, and the side of its input."""

    model: onnx.ModelProto
    image: str
    embeddings: str
    size: int

    @classmethod
    def load(cls, path: str | Path) -> _Encoder:
        """The file, or an InputError."""
        model = whole(path)
        inputs = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
        shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] < 1:
            raise InputError(
                f"encoder {path}: expected one image input [n, 3, S, S] of a fixed size, found "
                f"{[i.name for i in inputs]} {shape}"
            )
        return cls(model, inputs[0].name, model.graph.output[0].name, int(shape[2]))


@dataclass(frozen=True)
class _Decoder:
    """A decoder file: the shape of its embeddings, and whether it takes a previous mask."""

    model: onnx.ModelProto
    embeddings: tuple[int, ...]
    takes_mask: bool

    @classmethod
    def load(cls, path: str | Path) -> _Decoder:
        """The file, or an InputError."""
        model = whole(path)
        inputs = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
        if set(inputs) not in (PROMPTS, PROMPTS | MASK):
            raise InputError(
                f"decoder {path}: its inputs are {', '.join(sorted(inputs))}; package needs "
                f"{', '.join(sorted(PROMPTS))}, and takes {', '.join(sorted(MASK))}"
            )
        outputs = {o.name for o in model.graph.output}
        if not {"low_res_masks", "iou_predictions"} <= outputs:
            raise InputError(
                f"decoder {path}: its outputs are {', '.join(sorted(outputs))}; package needs low_res_masks, "
                f"iou_predictions"
            )
        return cls(model, inputs["image_embeddings"], set(inputs) >= MASK)

    @property
    def low(self) -> int:
        """Side of its masks."""
        return 4 * self.embeddings[-1]

    def without_mask(self) -> onnx.GraphProto:
        """Constants that say that there is no previous mask."""
        graph = onnx.GraphProto()
        if self.takes_mask:
            for name, shape in (("without_mask", (1, 1, self.low, self.low)), ("without_mask_flag", (1,))):
                graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        return graph


def _points() -> list[onnx.ValueInfoProto]:
    return [
        _INFO("point_coords", TensorProto.FLOAT, ["n", "k", 2]),
        _INFO("point_labels", TensorProto.FLOAT, ["n", "k"]),
    ]


def _renamed(graph: onnx.GraphProto, names: Mapping[str, str]) -> onnx.GraphProto:
    """The graph, reading other tensors."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    return graph
