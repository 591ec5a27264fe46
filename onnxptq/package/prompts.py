"""Boxes and points as ONNX text, in the form that Segment Anything's decoder takes: at least one prompt of at least one
point.

Where there is none, a prompt of the padding point (label -1) stands in; the answer is cut back to ``asked`` prompts.
"""

from __future__ import annotations

import onnx
from onnx import parser


def scaled_boxes() -> onnx.GraphProto:
    """boxes float [n, 4] in image pixels -> coords [n, 2, 2] in pixels of the network's input, and labels [n, 2]."""
    return parser.parse_graph(
        """
        prompts (float[n, 4] boxes, int64[2] size_hw, int64[2] chosen)
          => (float[p, 2, 2] coords, float[p, 2] labels, int64[1] asked)
        <int64[3] box_shape = {-1, 2, 2}, int64[2] flip = {1, 0}, float[1, 2] corners = {2.0, 3.0}, int64[1] two = {2},
         int64[1] one = {1}, int64[1] none = {0}, int64[2] nones = {0, 0}>
        {
            asked = Shape <start = 0, end = 1> (boxes)
            box_count = Max (asked, one)
            missing = Sub (box_count, asked)
            pads = Concat <axis = 0> (nones, missing, none)
            some_boxes = Pad (boxes, pads)
            old_f = Cast <to = 1> (size_hw)
            new_f = Cast <to = 1> (chosen)
            ratio_hw = Div (new_f, old_f)
            ratio_xy = Gather (ratio_hw, flip)
            points = Reshape (some_boxes, box_shape)
            coords = Mul (points, ratio_xy)
            label_shape = Concat <axis = 0> (box_count, two)
            labels = Expand (corners, label_shape)
        }
        """
    )


def scaled_points() -> onnx.GraphProto:
    """point_coords float [n, k, 2] in image pixels and point_labels [n, k] -> coords and labels of the network.

    A padding point is added to prompts without a box, as Segment Anything's own predictor does.
    """
    graph = parser.parse_graph(
        """
        scaling (float[n, k, 2] point_coords, float[n, k] point_labels, int64[2] size_hw, int64[2] chosen)
          => (float[n, k, 2] scaled_coords, int64[1] spare)
        <int64[2] flip = {1, 0}, float[1, 1] point = {1.0}, int64[1] one = {1}>
        {
            old_f = Cast <to = 1> (size_hw)
            new_f = Cast <to = 1> (chosen)
            ratio_hw = Div (new_f, old_f)
            ratio_xy = Gather (ratio_hw, flip)
            scaled_coords = Mul (point_coords, ratio_xy)
            corner = Greater (point_labels, point)
            corner_int = Cast <to = 7> (corner)
            corners = ReduceSum <keepdims = 0> (corner_int)
            corners_list = Reshape (corners, one)
            boxed = Min (corners_list, one)
            spare = Sub (one, boxed)
        }
        """
    )
    return _padded(graph, "scaled_coords")


def official_prompts() -> onnx.GraphProto:
    """point_coords [n, k, 2] and point_labels [n, k], as the network takes them; a padding point only for k = 0."""
    graph = parser.parse_graph(
        """
        counting (float[n, k, 2] point_coords) => (int64[1] point_count, int64[1] spare)
        <int64[1] one = {1}>
        {
            point_count = Shape <start = 1, end = 2> (point_coords)
            some = Min (point_count, one)
            spare = Sub (one, some)
        }
        """
    )
    return _padded(graph, "point_coords")


def no_mask(size: int) -> onnx.GraphProto:
    """The two inputs of a previous mask for a decoder without them: a mask that is given ends the run.

    The name of the node is the message that onnxruntime shows.
    """
    graph = parser.parse_graph(
        f"""
        no_mask (float[1, 1, {size}, {size}] mask_input, float[1] has_mask_input, float[n, k, 2] all_coords)
          => (float[n, k, 2] coords)
        <float[1] only = {{0.0}}>
        {{
            flag = Cast <to = 7> (has_mask_input)
            refused = Gather (only, flag)
            coords = Add (all_coords, refused)
        }}
        """
    )
    graph.node[1].name = "this_decoder_has_no_mask_input_export_it_with_--mask-input"
    return graph


def _padded(graph: onnx.GraphProto, coords: str) -> onnx.GraphProto:
    """The graph with all_coords and labels: ``spare`` padding points more for each prompt, and one prompt of them where
    there is none."""
    padding = parser.parse_graph(
        f"""
        padding (float[n, k, 2] {coords}, float[n, k] point_labels, int64[1] spare)
          => (float[p, q, 2] all_coords, float[p, q] labels, int64[1] asked)
        <int64[1] one_prompt = {{1}}, int64[1] none = {{0}}, int64[2] nones = {{0, 0}}, int64[3] nones3 = {{0, 0, 0}},
         float padding_label = {{-1.0}}>
        {{
            asked = Shape <start = 0, end = 1> (point_labels)
            prompts_needed = Max (asked, one_prompt)
            prompts_missing = Sub (prompts_needed, asked)
            label_pads = Concat <axis = 0> (nones, prompts_missing, spare)
            labels = Pad (point_labels, label_pads, padding_label)
            coord_pads = Concat <axis = 0> (nones3, prompts_missing, spare, none)
            all_coords = Pad ({coords}, coord_pads)
        }}
        """
    )
    graph.node.extend(padding.node)
    graph.initializer.extend(padding.initializer)
    return graph
