"""The op pair ``...QuantizeLinear`` / ``...DequantizeLinear`` of a scheme, derived from the scheme alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxptq.ops.body import Body
from onnxptq.ops.scheme import F32, REGISTRY, Array, Codes
from onnxptq.ops.spec import OpSpec


def define_pair(name: str, types: tuple[str, ...]) -> tuple[OpSpec, OpSpec]:
    """Register both ops of the scheme ``name``; ``types`` are the element types of its inputs."""
    scheme = REGISTRY[name]

    def quantize_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
        codes = scheme.codes_body(body, "x", [inputs[n] for n in scheme.inputs], attributes["bits"], attributes)
        body("Cast", codes, out="codes", to=scheme.code_type(attributes["bits"], attributes))

    def dequantize_body(body: Body, attributes: dict[str, Any], inputs: Mapping[str, str], rank: int) -> None:
        codes = scheme.codes_input(body, "codes")
        values = scheme.values_body(body, codes, [inputs[n] for n in scheme.inputs], attributes["bits"], attributes)
        body("Identity", values, out="y")

    def quantize(x: F32, *inputs: Array, **attributes: Any) -> Codes:
        codes = scheme.codes(x, inputs, attributes["bits"], attributes)
        kind = onnx.helper.tensor_dtype_to_np_dtype(scheme.code_type(attributes["bits"], attributes))
        return np.asarray(codes, kind)

    def dequantize(codes: Codes, *inputs: Array, **attributes: Any) -> F32:
        return scheme.values(codes, inputs, attributes["bits"], attributes)

    attributes = {"bits": None, **scheme.attributes}
    codes = " or ".join(scheme.code_types)
    return (
        OpSpec(
            name=f"{scheme.ops}QuantizeLinear",
            inputs=("x", *scheme.inputs),
            outputs=("codes",),
            attributes=attributes,
            body=quantize_body,
            reference=quantize,
            doc=f"Codes of x by scheme `{name}`: {scheme.doc}",
            types=("float", *types),
            results=(codes,),
        ),
        OpSpec(
            name=f"{scheme.ops}DequantizeLinear",
            inputs=("codes", *scheme.inputs),
            outputs=("y",),
            attributes=attributes,
            body=dequantize_body,
            reference=dequantize,
            doc=f"Values of codes of scheme `{name}`.",
            types=(codes, *types),
        ),
    )
