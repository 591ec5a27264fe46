"""Image pre- and post-processing as ONNX text.

All steps follow the Python pre-processing of the models' training: Pillow's bilinear resize with its wider filter when
shrinking, rounded to whole grey levels, then normalised; masks are resized bilinearly and thresholded at zero.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

_RESIZE = 'mode = "linear", coordinate_transformation_mode = "half_pixel"'
_LONGEST = "float side = {{{size}.0}}, float half = {{0.5}}"
"""Constants of ``_inner``."""
_SPACE = "int64[2] square = {{{size}, {size}}}, int64[2] origin = {{0, 0}}, int64[2] spatial = {{2, 3}}"
"""Constants of ``_whole``."""


def to_square(
    size: int, mean: NDArray[np.float32], std: NDArray[np.float32], *, divide: float = 1.0
) -> onnx.GraphProto:
    """image uint8 [H, W, 3] -> pixels [1, 3, S, S], aspect ratio not kept; size_hw [2] beside."""
    return _graph(
        f"""
        pre (uint8[h, w, 3] image) => (float[1, 3, {size}, {size}] pixels, int64[2] size_hw)
        <int64[2] target = {{{size}, {size}}}>
        {{
            {_measure()}
            chosen = Identity (target)
            {_resized()}
            pixels = Identity (normalised)
        }}
        """,
        mean,
        std,
        divide,
    )


def to_longest_side(size: int, mean: NDArray[np.float32], std: NDArray[np.float32]) -> onnx.GraphProto:
    """image uint8 [H, W, 3] -> pixels [1, 3, S, S], longer side S, the rest zero; size_hw [2] and inner_hw [2]
    beside."""
    return _graph(
        f"""
        pre (uint8[h, w, 3] image) => (float[1, 3, {size}, {size}] pixels, int64[2] size_hw, int64[2] chosen)
        <int64[2] target = {{{size}, {size}}}, int64[6] zeros6 = {{0, 0, 0, 0, 0, 0}}, {_LONGEST.format(size=size)}>
        {{
            {_measure()}
            size_f = Cast <to = 1> (size_hw)
            {_inner("size_f")}
            {_resized()}
            rest = Sub (target, chosen)
            image_pads = Concat <axis = 0> (zeros6, rest)
            pixels = Pad (normalised, image_pads)
        }}
        """,
        mean,
        std,
        1.0,
    )


def masks_from_low_resolution(size: int) -> onnx.GraphProto:
    """low_res [n, m, l, l] and all_scores [n, m] -> of the first ``asked`` prompts masks bool [n, H, W] and scores [n]
    of mask 0."""
    return parser.parse_graph(
        f"""
        post (float[n, m, l, l] low_res, float[n, m] all_scores, int64[2] size_hw, int64[2] chosen, int64[1] asked)
          => (bool[n, h, w] masks, float[n] scores)
        <int64[1] only_first = {{0}}, float zero = {{0.0}}, int64[1] channel = {{1}}, {_SPACE.format(size=size)}>
        {{
            first = Gather <axis = 1> (low_res, only_first)
            kept = Slice (first, only_first, asked, only_first)
            {_whole("kept", "whole")}
            flat = Squeeze (whole, channel)
            masks = Greater (flat, zero)
            score_column = Gather <axis = 1> (all_scores, only_first)
            score_list = Squeeze (score_column, channel)
            scores = Slice (score_list, only_first, asked, only_first)
        }}
        """
    )


def official_masks(size: int, *, single: bool) -> onnx.GraphProto:
    """low_res [n, m, l, l], all_scores [n, m] and orig_im_size -> the three outputs of Segment Anything's own ONNX
    decoder: masks float [n, m, H, W], iou_predictions and low_res_masks, of the first ``asked`` prompts.

    ``single`` keeps one mask a prompt by its rule: of up to two points the likeliest of masks 1 to 3, else mask 0.
    """
    constants = """, int64[1] channel = {1}, float[1] two_and_half = {2.5},
         float[1, 4] thousand_first = {1000.0, 0.0, 0.0, 0.0}"""
    best = """
            point_f = Cast <to = 1> (point_count)
            beyond = Sub (point_f, two_and_half)
            bonus = Mul (beyond, thousand_first)
            ranked = Add (all_scores, bonus)
            best = ArgMax <axis = 1, keepdims = 1> (ranked)
            own_scores = GatherElements <axis = 1> (all_scores, best)
            best_low = GatherND <batch_dims = 1> (low_res, best)
            own_low = Unsqueeze (best_low, channel)
    """
    return parser.parse_graph(
        f"""
        post (float[n, m, l, l] low_res, float[n, m] all_scores, float[2] orig_im_size, int64[1] asked,
              int64[1] point_count)
          => (float[n, k, h, w] masks, float[n, k] iou_predictions, float[n, k, l, l] low_res_masks)
        <int64[1] first = {{0}}, {_SPACE.format(size=size)}, {_LONGEST.format(size=size)}{constants if single else ""}>
        {{
            {best if single else "own_scores = Identity (all_scores) own_low = Identity (low_res)"}
            iou_predictions = Slice (own_scores, first, asked, first)
            low_res_masks = Slice (own_low, first, asked, first)
            size_hw = Cast <to = 7> (orig_im_size)
            {_inner("orig_im_size")}
            {_whole("low_res_masks", "masks")}
        }}
        """
    )


def mask_from_classes() -> onnx.GraphProto:
    """logits [1, 2, S, S] -> mask bool [H, W] at image size: pixels where the second class is likelier."""
    return parser.parse_graph(
        f"""
        post (float[1, 2, s, s] logits, int64[2] size_hw) => (bool[h, w] mask)
        <int64[1] index0 = {{0}}, int64[1] index1 = {{1}}, int64[2] ones = {{1, 1}}, int64[2] batch_channel = {{0, 1}},
         float zero = {{0.0}}>
        {{
            other = Gather <axis = 1> (logits, index0)
            named = Gather <axis = 1> (logits, index1)
            margin = Sub (named, other)
            whole_shape = Concat <axis = 0> (ones, size_hw)
            whole = Resize <{_RESIZE}> (margin, , , whole_shape)
            flat = Squeeze (whole, batch_channel)
            mask = Greater (flat, zero)
        }}
        """
    )


def _inner(size: str) -> str:
    """chosen [2]: the image's part of the network's input, its longer side being the whole of it."""
    return f"""
            longer = ReduceMax <keepdims = 0> ({size})
            scale = Div (side, longer)
            scaled = Mul ({size}, scale)
            shifted = Add (scaled, half)
            floored = Floor (shifted)
            chosen = Cast <to = 7> (floored)
    """


def _whole(low: str, whole: str) -> str:
    """Masks of the network's size, without the padding, at image size."""
    return f"""
            {whole}_count = Shape <start = 0, end = 2> ({low})
            {whole}_padded_shape = Concat <axis = 0> ({whole}_count, square)
            {whole}_padded = Resize <{_RESIZE}> ({low}, , , {whole}_padded_shape)
            {whole}_inner = Slice ({whole}_padded, origin, chosen, spatial)
            {whole}_shape = Concat <axis = 0> ({whole}_count, size_hw)
            {whole} = Resize <{_RESIZE}> ({whole}_inner, , , {whole}_shape)
    """


def _measure() -> str:
    return """
            size_hw = Shape <start = 0, end = 2> (image)
            planes = Transpose <perm = [2, 0, 1]> (image)
            batch_axis = Constant <value_ints = [0]> ()
            batched = Unsqueeze (planes, batch_axis)
            batch_shape = Constant <value_ints = [1, 3]> ()
    """


def _resized() -> str:
    return f"""
            new_shape = Concat <axis = 0> (batch_shape, chosen)
            resized = Resize <{_RESIZE}, antialias = 1> (batched, , , new_shape)
            levels = Cast <to = 1> (resized)
            centred = Sub (levels, mean)
            normalised = Div (centred, std)
    """


def _graph(text: str, mean: NDArray[np.float32], std: NDArray[np.float32], divide: float) -> onnx.GraphProto:
    """The parsed text with mean and deviation in grey levels."""
    graph = parser.parse_graph(text)
    for name, value in (("mean", mean), ("std", std)):
        levels = (value.astype(np.float64) * divide).astype(np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(levels, name))
    return graph
