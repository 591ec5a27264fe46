"""QConv: a convolution with coded input and weight, in one or two dimensions.

With scheme ``token``, ranges at run time are as fine as one sum allows: per pixel where the kernel is one pixel, per
channel where channels are not summed, else per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onnxptq.ops import epilogue, operand
from onnxptq.ops.body import FLOAT, INT32, Body
from onnxptq.ops.pack import dequantize, dequantize_body
from onnxptq.ops.product import Term, unsigned_body
from onnxptq.ops.rows import row_range, row_range_body
from onnxptq.ops.scheme import F32, Array
from onnxptq.ops.spec import OpSpec
from onnxptq.ops.uniform import affine_codes, affine_codes_body, affine_values, affine_values_body

MOST_TAPS = 256
"""Largest depthwise kernel with ranges per channel: the native kernel sums it in floats exactly."""
GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")


def ranges(shape: Sequence[int], strides: Sequence[int], pads: Sequence[int], group: int) -> str:
    """The unit of each range at run time for a weight of that shape: ``pixel``, ``channel`` or ``sample``."""
    if group == 1 and shape[1] > 1 and all(n == 1 for n in (*shape[2:], *strides)) and not any(pads):
        return "pixel"
    return "channel" if group > 1 and shape[1] == 1 and math.prod(shape[2:]) <= MOST_TAPS else "sample"


def _axes(attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes of x that share a range at run time."""
    found = ranges(*(attributes[name] for name in ("shape", "strides", "pads", "group")))
    spatial = tuple(range(2, len(attributes["shape"])))
    return {"pixel": (1,), "channel": spatial, "sample": (1, *spatial)}[found]


def _body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    given = operand.present(inputs, ("p0", "p1", "p2"))
    token = attributes["x_scheme"] == "token"
    coded = {"scheme": attributes["x_scheme"], "bits": attributes["x_bits"], "options": operand.options(attributes)}
    geometry = {name: attributes[name] for name in GEOMETRY}
    terms = operand.terms_body(body, "x", given, **coded) if attributes["group"] == 1 and not token else None
    if terms is not None and not any(term.by_row for term in terms):
        y = _integer_body(body, terms, attributes, geometry)
        if "bias" in inputs:
            y = body("Add", y, _by_channel(body, "bias", attributes["shape"]))
    else:
        weight = dequantize_body(
            body, "w_codes", "w_scale", "w_zero", bits=attributes["w_bits"], shape=attributes["shape"], axis=0
        )
        x = _token_body(body, attributes) if token else operand.fake_body(body, "x", given, **coded)
        y = body("Conv", x, weight, *(["bias"] if "bias" in inputs else []), **geometry)
    epilogue.apply_body(body, y, attributes["epilogue"], out="y")


def _token_body(body: Body, attributes: Mapping[str, Any]) -> str:
    scale, zero = row_range_body(body, "x", attributes["x_bits"], *_axes(attributes))
    codes = affine_codes_body(body, "x", scale, zero, attributes["x_bits"])
    return affine_values_body(body, codes, scale, zero)


def _by_channel(body: Body, values: str, shape: Sequence[int]) -> str:
    return body("Reshape", values, body.integers([-1, *[1] * (len(shape) - 2)]))


def _integer_body(body: Body, terms: Sequence[Term], attributes: Mapping[str, Any], geometry: Mapping[str, Any]) -> str:
    """By ConvInteger with UINT8 weights, which onnxruntime multiplies four times faster than INT8 ones and exactly.

    ConvInteger has no zero-points by channel, so these are subtracted as sums over each window.
    """
    shape = attributes["shape"]
    weight = unsigned_body(body, "w_codes", "w_zero", bits=attributes["w_bits"], shape=shape)
    zero = _by_channel(body, body.cast(weight.zero, INT32), shape)
    scale = _by_channel(body, "w_scale", shape)
    ones = body("Expand", body.byte(1), body.integers([1, *shape[1:]]))
    parts = []
    for term in terms:
        total, window = (body("ConvInteger", term.codes, w, term.zero, **geometry) for w in (weight.codes, ones))
        total = body.cast(body("Sub", total, body("Mul", window, zero)), FLOAT)
        parts.append(body("Mul", total, body("Mul", scale, term.scale)))
    return parts[0] if len(parts) == 1 else body("Sum", *parts)


def convolve(
    x: F32, weight: F32, *, strides: list[int], pads: list[int], dilations: list[int], group: int
) -> NDArray[np.float64]:
    """A convolution over any number of dimensions, in float64."""
    spatial = weight.ndim - 2
    edges = [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    axes = tuple(range(2, 2 + spatial))
    windows = sliding_window_view(np.pad(x.astype(np.float64), edges), reach, axis=axes)
    steps = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    batch, places = windows.shape[0], windows.shape[2 : 2 + spatial]
    columns = windows.reshape(batch, group, weight.shape[1], *windows.shape[2:])
    columns = np.moveaxis(columns, 2, 2 + spatial).reshape(
        batch, group, int(np.prod(places)), int(np.prod(weight.shape[1:]))
    )
    kernels = weight.astype(np.float64).reshape(group, weight.shape[0] // group, -1)
    y: NDArray[np.float64] = np.matmul(kernels, np.swapaxes(columns, -1, -2))
    return y.reshape(batch, weight.shape[0], *places)


def reference(
    x: F32,
    w_codes: Array,
    w_scale: F32,
    w_zero: NDArray[np.int8],
    bias: F32 | None = None,
    *params: Array | None,
    **attributes: Any,
) -> F32:
    """The sums in float64, which holds every integer sum exactly."""
    given = SPEC.complete(attributes)
    weight = dequantize(w_codes, w_scale, w_zero, bits=given["w_bits"], shape=given["shape"], axis=0)
    if given["x_scheme"] == "token":
        scale, zero = row_range(x, given["x_bits"], _axes(given))
        held = affine_values(affine_codes(x, scale, zero, given["x_bits"]), scale, zero)
    else:
        held = operand.fake(x, params, scheme=given["x_scheme"], bits=given["x_bits"], options=operand.options(given))
    y = convolve(held, weight, **{name: given[name] for name in GEOMETRY[1:]})
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * (weight.ndim - 2))
    return epilogue.apply(y, given["epilogue"])


SPEC = OpSpec(
    name="QConv",
    inputs=("x", "w_codes", "w_scale", "w_zero", "bias?", "p0?", "p1?", "p2?"),
    outputs=("y",),
    attributes={"x_bits": None, "w_bits": None, "x_scheme": "uniform", "epilogue": "none", "shape": None}
    | {"kernel_shape": None, "strides": None, "pads": None, "dilations": None, "group": 1}
    | dict(operand.EXTRA),
    body=_body,
    reference=reference,
    doc="y = epilogue(Conv(x^, W^) + bias): x [B, I, ...] coded by `x_scheme` with inputs p0.., then padded with "
    "real zeros; scheme `token` takes ranges of each pixel (kernel, strides and group 1, no pads), of each channel "
    "(depthwise), else of each sample. W of the given `shape` [O, I / group, ...] from codes with scale and zero [O]. "
    "The rest is as in the standard Conv.",
    types=("float", "stored weight", "float", "int8", "float", *operand.TYPES),
)
