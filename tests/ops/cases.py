"""Examples of every op that is not a scheme's pair: inputs (seeded) and attributes of each variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.ops import schemes
from onnxptq.ops.pack import store_weight
from onnxptq.ops.table import between_cells
from onnxptq.ops.uniform import affine

Array = NDArray[Any]
Input = Array | onnx.TensorProto | None
BITS = range(2, 9)


@dataclass(frozen=True)
class Case:
    """One variant: its inputs, which of them are initializers, and further first inputs of other shapes."""

    op: str
    name: str
    inputs: tuple[Input, ...]
    attributes: dict[str, Any]
    constants: tuple[int, ...] = ()
    more: tuple[Array, ...] = ()
    loose: bool = field(default=False)
    """Whether codes of computed numbers (softmax outputs) are involved: two faces may round a few differently."""

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(size=shape).astype(np.float32)


def params_of(scheme: str, bits: int, low: float, high: float, rng: np.random.Generator) -> Any:
    """One of the scheme's candidates, among the wider half."""
    found = list(schemes()[scheme].grid(low, high, bits))
    if scheme == "table" and bits % 2:
        found = [between_cells(p) for p in found]
    return found[int(rng.integers(len(found) // 2, len(found)))] if len(found) > 1 else found[0]


def weight(
    rng: np.random.Generator, shape: tuple[int, ...], bits: int, channels: int, *, group: int = 0
) -> tuple[Input, Array, Array]:
    """Codes, scale and zero of a random weight."""
    codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
    rows = (-(-shape[0] // group), channels) if group else (channels,)
    half = 1 << (bits - 1)
    zero = rng.integers(-half, half, rows).astype(np.int8)
    return store_weight(codes, bits), rng.uniform(0.1, 1, rows).astype(np.float32), zero


def operand_inputs(p: Any) -> tuple[Array, ...]:
    return tuple(p.inputs().values())


def options_of(p: Any) -> dict[str, Any]:
    return {f"x_{name}": value for name, value in p.attributes().items()}


def linear_cases() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    rest = zip(
        cycle((3, 4, 8, 6, 2, 7, 5, 4, 8)),
        cycle((0, 5, 0, 16)),
        cycle(("none", "gelu", "relu")),
        cycle((True, False)),
        strict=False,
    )
    fitting = [name for name in sorted(schemes()) if name != "row"]  # which is for softmax outputs
    drawn = [*product(fitting, BITS), *[("uniform", 0)] * 9]
    for (scheme, bits), (w_bits, group, epilogue, biased) in zip(drawn, rest, strict=False):
        k, n = int(rng.integers(1, 40)), int(rng.integers(1, 20))
        held = weight(rng, (k, n), w_bits, n, group=group)
        p = params_of(scheme, max(bits, 2), -3.0, 3.0, rng)
        params = operand_inputs(p) if bits else ()
        shapes = ((3, k), (0, k), (k,), (2, 0, k), (2, 3, k), (1, 2, 2, 3, k))
        attributes = {
            "x_bits": bits,
            "w_bits": w_bits,
            "x_scheme": scheme,
            "w_group": group,
            "epilogue": epilogue,
            "K": k,
            "N": n,
        } | options_of(p)
        inputs = (normal(rng, 5, k) * 2, *held, normal(rng, n) if biased else None, *params)
        yield Case(
            "QLinear",
            f"{scheme}{bits}-w{w_bits}g{group}-{epilogue}{'-bias' if biased else ''}",
            inputs,
            attributes,
            tuple(range(1, len(inputs))) if biased else (1, 2, 3, *range(5, len(inputs))),
            tuple(normal(rng, *s) for s in shapes),
        )


def conv_cases() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    geometry = cycle(
        [
            {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1},
            {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1},
            {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 1, 2, 0], "dilations": [1, 2], "group": 2},
            {"kernel_shape": [5], "strides": [2], "pads": [2, 1], "dilations": [1], "group": 1},
            {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 6},
            {"kernel_shape": [4, 4], "strides": [4, 4], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1},
            {"kernel_shape": [1], "strides": [1], "pads": [0, 0], "dilations": [1], "group": 1},
        ]
    )
    rest = zip(
        geometry, cycle((8, 6, 4, 3, 2, 5, 7, 4)), cycle(("none", "relu", "gelu")), cycle((True, False)), strict=False
    )
    drawn = [*product(("uniform", "table", "token"), BITS), ("dual_region", 4), ("outlier_retained", 6)]
    drawn += [("uniform", 0)] * 7
    for (scheme, bits), (shape, w_bits, epilogue, biased) in zip(drawn, rest, strict=False):
        spatial, group = len(shape["kernel_shape"]), int(shape["group"])  # type: ignore[call-overload]
        dims = (12, 6 // group, *shape["kernel_shape"])  # type: ignore[misc]
        p = params_of(scheme, max(bits, 2), -3.0, 3.0, rng)
        inputs = (
            normal(rng, 2, 6, *(9, 8)[:spatial]),
            *weight(rng, dims, w_bits, 12),
            normal(rng, 12) if biased else None,
            *(operand_inputs(p) if bits else ()),
        )
        attributes = {"x_bits": bits, "w_bits": w_bits, "x_scheme": scheme, "epilogue": epilogue, "shape": list(dims)}
        attributes |= options_of(p) | shape
        yield Case(
            "QConv",
            f"{scheme}{bits}-w{w_bits}-{'x'.join(str(d) for d in dims)}-{epilogue}{'-bias' if biased else ''}",
            inputs,
            attributes,
            tuple(i for i in range(1, len(inputs)) if inputs[i] is not None),
            (normal(rng, 1, 6, *(5, 13)[:spatial]), normal(rng, 0, 6, *(9, 9)[:spatial])),
        )


def uniform_inputs(
    scheme: str, bits: int, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[Array | None, Array | None]:
    """Scale and zero of this shape, where the scheme takes any."""
    if scheme != "uniform" or not bits:
        return None, None
    p = affine(rng.uniform(-3, 0, shape), rng.uniform(1, 3, shape), bits)
    return p.scale, p.zero


def matmul_cases() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    dims = [
        ((2, 4, 5, 16), (2, 4, 16, 7), (), (4, 1, 1)),
        ((5, 3), (3, 4), (5, 1), (1, 4)),
        ((3, 1, 6, 9), (2, 9, 4), (1, 1, 1, 1), ()),
        ((4, 6, 32), (1, 32, 8), (4, 1, 1), (1, 1, 8)),
    ]
    schemes_of = cycle(
        [("uniform", "uniform", 0), ("token", "uniform", 0), ("token", "token", 1), ("uniform", "uniform", 1)]
    )
    for i, ((a_bits, b_bits), (a_scheme, b_scheme, flip)) in enumerate(
        zip([*product((2, 4, 6, 8), (3, 5, 7, 8)), (0, 8), (4, 0), (0, 0), (6, 6)], schemes_of, strict=False)
    ):
        a, b, a_shape, b_shape = dims[(i + i // 4) % 4]
        if flip:
            b, b_shape = (*[1] * (len(a) - len(b)), *b[:-2], b[-1], b[-2]), (*b_shape[:-2], *reversed(b_shape[-2:]))
        attributes = {
            "a_bits": a_bits,
            "b_bits": b_bits,
            "a_scheme": a_scheme,
            "b_scheme": b_scheme,
            "transpose_b": flip,
        }
        scales = (*uniform_inputs(a_scheme, a_bits, a_shape, rng), *uniform_inputs(b_scheme, b_bits, b_shape, rng))
        name = f"{a_scheme}{a_bits}-{b_scheme}{b_bits}-{'x'.join(map(str, a))}{'-t' if flip else ''}"
        yield Case("QMatMul", name, (normal(rng, *a), normal(rng, *b), *scales), attributes)


def attention_cases() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    sizes = cycle(
        [
            ((2, 4), 9, 12, 16, 8, 4),
            ((6,), 5, 20, 8, 8, 3),
            ((2, 3), 1, 6, 4, 5, 1),
            ((1, 2), 16, 16, 32, 32, 2),
            ((), 7, 8, 8, 4, 1),
        ]
    )
    extras = cycle(["", "mask", "bias", "rel", "mask bias rel", "gone"])
    granular = cycle(["tensor", "head", "channel"])
    fitting = [n for n, s in schemes().items() if not s.attributes.get("groups") and n != "token"]
    drawn = [
        (s, norm, bits) for s, norm in product(fitting, (0, 1)) for bits in ((3, 4, 6, 8) if norm == 0 else (2, 5, 7))
    ]
    drawn += [("uniform", 0, 0), ("uniform", 1, 0)]
    for i, ((scheme, norm, bits), (lead, n, m, d, e, heads), extra, grain) in enumerate(
        zip(drawn, sizes, extras, granular, strict=False)
    ):
        qk_scheme, qkv = ("token", "uniform")[i % 2], (0 if i % 9 == 8 else 4 + i % 5)
        per_head = () if grain == "tensor" else (heads,)
        scales = [v for _ in "qk" for v in uniform_inputs(qk_scheme, qkv, per_head, rng)]
        v_scheme = ("uniform", "uniform", "token")[i // 2 % 3]
        scales += uniform_inputs(v_scheme, qkv, (heads, e) if grain == "channel" else per_head, rng)
        mask = np.where(rng.uniform(size=(n, m)) < 0.3, -np.inf, 0).astype(np.float32) if "mask" in extra else None
        if extra == "gone":
            mask = np.zeros((n, m), np.float32)
            mask[0] = -np.inf
        bias = normal(rng, *lead[-1:], n, m) if "bias" in extra else None
        rel = (normal(rng, *lead, n, 2), normal(rng, *lead, n, m // 2)) if "rel" in extra else (None, None)
        p = params_of(scheme, max(bits, 2), 0.0, 1.0, rng)
        inputs = (
            normal(rng, *lead, n, d),
            normal(rng, *lead, m, d),
            normal(rng, *lead, m, e),
            mask,
            bias,
            *rel,
            *scales,
        )
        inputs += (
            operand_inputs(p)[: 1 if scheme == "uniform" and i % 2 else 3]
            if bits and not (scheme == "uniform" and norm)
            else ()
        )
        if bits and scheme == "uniform" and norm:
            inputs += (np.asarray(1 / (2**bits - 1), np.float32),)
        attributes = {
            "q_bits": qkv,
            "k_bits": qkv,
            "v_bits": qkv,
            "p_bits": bits,
            "qk_scheme": qk_scheme,
            "v_scheme": v_scheme,
        }
        attributes |= {"softmax_scheme": scheme, "softmax_norm": norm, "scale": float(d**-0.5), "heads": heads}
        more = (normal(rng, *lead, 0, d), normal(rng, *lead, 2 * n, d)) if not extra else ()
        name = f"{scheme}{bits}n{norm}-{qk_scheme}-{v_scheme}{qkv}-{grain}-{extra or 'plain'}"
        yield Case("QAttention", name, inputs, attributes, more=more, loose=True)


def weight_cases() -> Iterator[Case]:
    rng = np.random.default_rng(5)
    for bits, (shape, axis, group) in product(BITS, [((5, 3, 2, 2), 1, 0), ((13,), 0, 0), ((17, 6), 1, 4)]):
        codes, scale, zero = weight(rng, shape, bits, shape[axis], group=group)
        attributes = {"bits": bits, "axis": axis, "group": group, "shape": list(shape)}
        yield Case(
            "DequantizeWeight", f"{bits}-{'x'.join(map(str, shape))}", (codes, scale, zero), attributes, (0, 1, 2)
        )


def range_cases() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    odd = np.array(
        [[0, 0, 0], [np.nan, 1, 2], [np.inf, -1, 0], [-np.inf, np.nan, np.inf], [1e-45, 0, 0], [-5, -5, -5]], np.float32
    )
    for bits in BITS:
        more = (odd, normal(rng, 0, 4), normal(rng, 2, 3, 1), normal(rng, 40), normal(rng, 3, 100) * np.float32(1e30))
        yield Case("RowRange", str(bits), (normal(rng, 6, 33),), {"bits": bits}, more=more)
        yield Case(
            "RowRange",
            f"{bits}-columns",
            (normal(rng, 2, 6, 33),),
            {"bits": bits, "axis": -2},
            more=(odd.T, normal(rng, 0, 3, 4)),
        )


MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "QLinear": linear_cases,
    "QConv": conv_cases,
    "QMatMul": matmul_cases,
    "QAttention": attention_cases,
    "DequantizeWeight": weight_cases,
    "RowRange": range_cases,
}
CASES = [case for make in MAKERS.values() for case in make()]
