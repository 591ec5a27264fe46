"""Matrix products and convolutions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Ints = list[int]
MatMul = torch.matmul


def Gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha a b + beta c."""
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def Einsum(*operands: Tensor, equation: str) -> Tensor:
    """The contraction of the equation."""
    return torch.einsum(equation, *operands)


def _ends(pads: Ints) -> list[int]:
    """ONNX's pads (all starts, then all ends) in torch's order."""
    half = len(pads) // 2
    return [n for axis in reversed(range(half)) for n in (pads[axis], pads[half + axis])]


def _same(total: Ints, auto_pad: str) -> Ints:
    """Split the total padding of each axis; the odd element comes last for SAME_UPPER."""
    less, more = [n // 2 for n in total], [n - n // 2 for n in total]
    return [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]


def Conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Cross-correlation."""
    spatial = x.ndim - 2
    strides, dilations, pads = strides or [1] * spatial, dilations or [1] * spatial, pads or [0] * 2 * spatial
    if auto_pad.startswith("SAME"):
        rest = zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
        pads = _same([max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in rest], auto_pad)
    half = pads[:spatial]
    if half != pads[spatial:]:
        x, half = functional.pad(x, _ends(pads)), [0] * spatial
    return torch.convolution(x, w, b, strides, half, dilations, False, [0] * spatial, group)


def ConvTranspose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The transpose of a convolution, computed whole and then cropped."""
    spatial = x.ndim - 2
    none = [0] * spatial
    strides, dilations, extra = strides or [1] * spatial, dilations or [1] * spatial, output_padding or none
    full = torch.convolution(x, w, None, strides, none, dilations, True, none, group)
    if auto_pad.startswith("SAME") and output_shape is None:
        output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if output_shape is not None:
        # Here SAME_LOWER and the other modes trade places: the odd element is cropped where it was added.
        total = [n + e - wanted for n, e, wanted in zip(full.shape[2:], extra, output_shape, strict=True)]
        pads = _same(total, auto_pad)
    pads = pads or [0] * 2 * spatial
    more = [-p for p in pads[:spatial]] + [e - p for e, p in zip(extra, pads[spatial:], strict=True)]
    cut = functional.pad(full, _ends(more))
    return cut if b is None else cut + b.reshape(-1, *[1] * spatial)
