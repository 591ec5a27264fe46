"""QMatMul: the product of two activations, both coded on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxptq.ops import operand
from onnxptq.ops.body import Body
from onnxptq.ops.scheme import F32, Array
from onnxptq.ops.spec import OpSpec


def _body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
    held = {}
    for name in ("a", "b"):
        given = operand.present(inputs, (f"{name}_scale", f"{name}_zero"))
        scheme, bits = attributes[f"{name}_scheme"], attributes[f"{name}_bits"]
        held[name] = operand.fake_body(body, name, given, scheme=scheme, bits=bits, options={})
    if attributes["transpose_b"]:
        held["b"] = body("Transpose", held["b"], perm=[*range(rank - 2), rank - 1, rank - 2])
    body("MatMul", held["a"], held["b"], out="y")


def reference(
    a: F32,
    b: F32,
    a_scale: Array | None = None,
    a_zero: Array | None = None,
    b_scale: Array | None = None,
    b_zero: Array | None = None,
    **attributes: Any,
) -> F32:
    """The product in float64, which holds every integer sum exactly."""
    given = SPEC.complete(attributes)
    left = operand.fake(a, (a_scale, a_zero), scheme=given["a_scheme"], bits=given["a_bits"], options={})
    right = operand.fake(b, (b_scale, b_zero), scheme=given["b_scheme"], bits=given["b_bits"], options={})
    if given["transpose_b"]:
        right = np.swapaxes(right, -1, -2)
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)


SPEC = OpSpec(
    name="QMatMul",
    inputs=("a", "b", "a_scale?", "a_zero?", "b_scale?", "b_zero?"),
    outputs=("y",),
    attributes={"a_bits": None, "b_bits": None, "a_scheme": "uniform", "b_scheme": "uniform", "transpose_b": 0},
    body=_body,
    reference=reference,
    doc="y = a^ b^: a [..., M, K], b [..., K, N], or [..., N, K] of the same rank with `transpose_b`. Schemes "
    "uniform (scale and zero "
    "broadcast against the operand) and token (per row of the operand as given); 0 bits leave an operand float.",
    types=("float", "float", "float", "uint8", "float", "uint8"),
)
