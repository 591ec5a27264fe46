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
        <int64[2] target = {{{size}, {size}}}, float side = {{{size}.0}}, float half = {{0.5}},
         int64[6] zeros6 = {{0, 0, 0, 0, 0, 0}}>
        {{
            {_measure()}
            size_f = Cast <to = 1> (size_hw)
            longer = ReduceMax <keepdims = 0> (size_f)
            scale = Div (side, longer)
            scaled = Mul (size_f, scale)
            shifted = Add (scaled, half)
            floored = Floor (shifted)
            chosen = Cast <to = 7> (floored)
            {_resized()}
            rest = Sub (target, chosen)
            pads = Concat <axis = 0> (zeros6, rest)
            pixels = Pad (normalised, pads)
        }}
        """,
        mean,
        std,
        1.0,
    )


def scaled_boxes() -> onnx.GraphProto:
    """boxes float [n, 4] in image pixels -> coords [n, 2, 2] in pixels of the network's input, and labels [n, 2]."""
    return parser.parse_graph(
        """
        prompts (float[n, 4] boxes, int64[2] size_hw, int64[2] chosen) => (float[n, 2, 2] coords, float[n, 2] labels)
        <int64[3] box_shape = {-1, 2, 2}, int64[2] flip = {1, 0}, float[1, 2] corners = {2.0, 3.0}, int64[1] two = {2}>
        {
            old_f = Cast <to = 1> (size_hw)
            new_f = Cast <to = 1> (chosen)
            ratio_hw = Div (new_f, old_f)
            ratio_xy = Gather (ratio_hw, flip)
            points = Reshape (boxes, box_shape)
            coords = Mul (points, ratio_xy)
            box_count = Shape <start = 0, end = 1> (boxes)
            label_shape = Concat <axis = 0> (box_count, two)
            labels = Expand (corners, label_shape)
        }
        """
    )


def masks_from_low_resolution(size: int) -> onnx.GraphProto:
    """low_res [n, m, l, l] and scores [n, m] -> masks bool [n, H, W] and mask_scores [n] of mask 0."""
    return parser.parse_graph(
        f"""
        post (float[n, m, l, l] low_res, float[n, m] all_scores, int64[2] size_hw, int64[2] chosen)
          => (bool[n, h, w] masks, float[n] scores)
        <int64[1] only_first = {{0}}, int64[2] square = {{{size}, {size}}}, int64[2] origin = {{0, 0}},
         int64[2] spatial = {{2, 3}}, float zero = {{0.0}}, int64[1] channel = {{1}}>
        {{
            best = Gather <axis = 1> (low_res, only_first)
            low_shape = Shape <start = 0, end = 2> (best)
            padded_shape = Concat <axis = 0> (low_shape, square)
            padded = Resize <{_RESIZE}> (best, , , padded_shape)
            inner = Slice (padded, origin, chosen, spatial)
            whole_shape = Concat <axis = 0> (low_shape, size_hw)
            whole = Resize <{_RESIZE}> (inner, , , whole_shape)
            flat = Squeeze (whole, channel)
            masks = Greater (flat, zero)
            score_column = Gather <axis = 1> (all_scores, only_first)
            scores = Squeeze (score_column, channel)
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
