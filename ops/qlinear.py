"""QLinear: y = epilogue(x^ . W^ + bias), with x coded on the way in and W stored as codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.ops import epilogue, operand
from onnxptq.ops.body import Body
from onnxptq.ops.pack import dequantize, dequantize_body
from onnxptq.ops.product import multiply_body, weight_body
from onnxptq.ops.scheme import F32, Array
from onnxptq.ops.spec import OpSpec


def _body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    bits, shape, group = attributes["w_bits"], (attributes["K"], attributes["N"]), attributes["w_group"]
    given = operand.present(inputs, ("p0", "p1", "p2"))
    coded = {"scheme": attributes["x_scheme"], "bits": attributes["x_bits"], "options": operand.options(attributes)}
    terms = operand.terms_body(body, "x", given, **coded) if not group else None
    if terms is not None:
        weight = weight_body(body, "w_codes", "w_zero", bits=bits, shape=shape, by=max(term.bits for term in terms))
        y = multiply_body(body, terms, weight, "w_scale")
    else:
        floats = dequantize_body(body, "w_codes", "w_scale", "w_zero", bits=bits, shape=shape, axis=1, group=group)
        y = body("MatMul", operand.fake_body(body, "x", given, **coded), floats)
    if "bias" in inputs:
        y = body("Add", y, "bias")
    epilogue.apply_body(body, y, attributes["epilogue"], out="y")


def reference(
    x: F32,
    w_codes: Array,
    w_scale: F32,
    w_zero: NDArray[np.int8],
    bias: F32 | None = None,
    *params: Array | None,
    **attributes: Any,
) -> F32:
    """The product in float64, which holds every integer sum exactly."""
    given = SPEC.complete(attributes)
    shape = (given["K"], given["N"])
    weight = dequantize(w_codes, w_scale, w_zero, bits=given["w_bits"], shape=shape, axis=1, group=given["w_group"])
    held = operand.fake(x, params, scheme=given["x_scheme"], bits=given["x_bits"], options=operand.options(given))
    y = held.astype(np.float64) @ weight.astype(np.float64)
    return epilogue.apply(y if bias is None else y + bias, given["epilogue"])


SPEC = OpSpec(
    name="QLinear",
    inputs=("x", "w_codes", "w_scale", "w_zero", "bias?", "p0?", "p1?", "p2?"),
    outputs=("y",),
    attributes={
        "x_bits": None,
        "w_bits": None,
        "x_scheme": "uniform",
        "w_group": 0,
        "epilogue": "none",
        "K": None,
        "N": None,
    }
    | dict(operand.EXTRA),
    body=_body,
    reference=reference,
    doc="y = epilogue(x^ W^ + bias): x [..., K] coded by `x_scheme` with inputs p0.. (`x_bits` 0 leaves it float), W "
    "[K, N] from codes "
    "with scale and zero [N], or [ceil(K / w_group), N]. `epilogue` is none, gelu (erf form) or relu.",
    types=("float", "stored weight", "float", "int8", "float", *operand.TYPES),
)
