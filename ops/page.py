"""The op reference, generated from the specs and schemes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnxptq.ops import DOMAIN, VERSION, schemes, specs
from onnxptq.ops.scheme import Scheme
from onnxptq.ops.spec import OpSpec

INTRODUCTION = f"""\
# Operators of domain `{DOMAIN}`, version {VERSION}

This page is generated: `python -m onnxptq.ops.page > docs/ops.md`.

Every artifact carries, for each of these ops that it uses, a function body of standard ops, so it runs in any
onnxruntime from 1.27 on; where the compiled library is registered, its kernels are used instead. A node's
`overload` names the body of its variant. Bodies multiply codes as integers:
[formats](formats.md#function-bodies) says how.

Arithmetic is float32 with IEEE division, rounding half to even and saturation. NaN has code 0. Codes are the same bit
for bit in every implementation, and equal codes have equal values; products agree to 1e-5 of the largest output,
since integer sums are exact and only the order of float sums is free.

Weights are stored with signed codes, code - 2^(bits-1), and signed zero-points: 8 bits as INT8 and 4 bits as INT4
tensors of the weight's shape, other widths as a UINT8 vector that holds a little-endian stream of the *unsigned*
codes in C order, padded to a multiple of 8 codes, so that 6 bits put four codes into three bytes.
"""


def _scheme(scheme: Scheme[Any]) -> Iterator[str]:
    yield f"### `{scheme.name}`\n"
    yield f"{scheme.doc[0].upper()}{scheme.doc[1:]}\n"
    inputs = ", ".join(f"`{name}`" for name in scheme.inputs) or "none"
    attributes = "".join(f", attribute `{name}` (default `{value}`)" for name, value in scheme.attributes.items())
    pair = f" Op pair: `{scheme.ops}QuantizeLinear`, `{scheme.ops}DequantizeLinear`." if scheme.ops is not None else ""
    yield f"Inputs: {inputs}{attributes}.{pair}\n"


def _typed(names: tuple[str, ...], types: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}` {kind}" for name, kind in zip(names, types, strict=True))


def _op(spec: OpSpec) -> Iterator[str]:
    yield f"### `{spec.name}`\n"
    yield f"{spec.doc}\n"
    yield f"- inputs: {_typed(spec.inputs, spec.types)}"
    yield f"- outputs: {_typed(spec.outputs, spec.results)}"
    attributes = ", ".join(
        f"`{name}`" + ("" if default is None else f" = `{default}`") for name, default in spec.attributes.items()
    )
    yield f"- attributes: {attributes}\n"


def reference_page() -> str:
    """The whole page, in Markdown."""
    lines = [
        INTRODUCTION,
        "## Schemes\n",
        "How floats become codes. Fused ops take a scheme's inputs as `p0`, `p1` ...\n",
    ]
    for scheme in schemes().values():
        lines += _scheme(scheme)
    lines += ["## Ops\n", "A trailing `?` marks an input that may be absent.\n"]
    for spec in specs().values():
        lines += _op(spec)
    body = specs()["UniformQuantizeLinear"].text({"bits": 6}, [True] * 3)
    lines += ["## A body\n", "`UniformQuantizeLinear` of 6 bits, as an artifact carries it:\n", f"```\n{body}\n```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference_page(), end="")
