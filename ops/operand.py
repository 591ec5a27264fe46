"""Operands of fused ops: any tensor, coded by any scheme as it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxptq.ops.body import Body
from onnxptq.ops.product import Term
from onnxptq.ops.scheme import F32, REGISTRY, Array

EXTRA: Mapping[str, Any] = {"x_form": "softmax", "x_groups": 1, "x_cells": 0}
"""Attributes that some schemes read, under their names in fused ops."""
TYPES = ("as the scheme has it",) * 3
"""Element types of p0, p1 and p2."""


def _scheme(name: str, inputs: Sequence[object]) -> Any:
    """The scheme, once all its inputs are present (a missing zero-point is 0)."""
    from onnxptq.ops import schemes

    scheme = schemes()[name] if name not in REGISTRY else REGISTRY[name]
    if len(inputs) != len(scheme.inputs) and not (name == "uniform" and len(inputs) == 1):
        raise TypeError(f"scheme {name!r} takes inputs {scheme.inputs}, {len(inputs)} given")
    return scheme


def options(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a scheme among the attributes of a fused op."""
    return {name.removeprefix("x_"): attributes.get(name, default) for name, default in EXTRA.items()}


def fake_body(body: Body, x: str, inputs: Sequence[str], *, scheme: str, bits: int, options: Mapping[str, Any]) -> str:
    """``x`` coded and decoded in standard ops; 0 bits leave it unchanged."""
    return str(_scheme(scheme, inputs).fake_body(body, x, inputs, bits, options)) if bits else x


def terms_body(
    body: Body, x: str, inputs: Sequence[str], *, scheme: str, bits: int, options: Mapping[str, Any]
) -> tuple[Term, ...] | None:
    """``x`` as UINT8 codes for integer products; None where the product is computed in floats."""
    if not bits or body.differentiable:
        return None
    terms: tuple[Term, ...] | None = _scheme(scheme, inputs).terms_body(body, x, inputs, bits, options)
    return terms


def fake(x: F32, inputs: Sequence[Array | None], *, scheme: str, bits: int, options: Mapping[str, Any]) -> F32:
    """``fake_body`` in NumPy; absent inputs are None."""
    if not bits:
        return x
    given = [i for i in inputs if i is not None]
    held: F32 = _scheme(scheme, given).fake_arrays(x, given, bits, options)
    return held


def present(inputs: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The named inputs that are present."""
    return [inputs[name] for name in names if name in inputs]
