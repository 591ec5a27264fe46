"""Expand rotary position embedding with tables of cosines and sines."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer
from onnxptq.graph.canonical.rewrite import Miss, need


def _rotary(write: Writer) -> list[gs.Tensor]:
    """Rotate pairs of channels by the angle of their position; x is [B, S, N H] or [B, N, S, H]."""
    x, positions, cosines, sines = (write.required(i) for i in range(4))
    need(not write.attr("is_packed_batching", 0), "packed batches")
    need(float(write.attr("scale", 1.0)) == 1.0, "scaled positions")
    rank, half = write.rank(x), _width(cosines)
    need(rank in (3, 4), "neither three nor four axes")
    part, heads = int(write.attr("rotary_embedding_dim", 0)), int(write.attr("num_heads", 0))
    need(not part or heads or rank == 4, "the number of heads is not said")
    lengths = write.rank(positions) == 1
    rows = write("Reshape", x, write.ints(0, 0, heads or -1, -1 if heads else 2 * half)) if rank == 3 else x
    # The tables' rows broadcast over the heads: axis 2 of [B, S, N, H], axis 1 of [B, N, S, H].
    axis = 2 if rank == 3 else 1
    if lengths:
        count = write("Squeeze", write("Shape", rows, start=1 if rank == 3 else 2, end=2 if rank == 3 else 3))
        steps = write("Range", write.number(0, "int64"), count, write.number(1, "int64"))
        positions = write("Unsqueeze", write("Add", positions, steps), write.ints(0))
    cosine, sine = (
        write("Unsqueeze", write("Gather", table, positions, axis=0), write.ints(axis)) for table in (cosines, sines)
    )
    turned = rows
    rest: gs.Tensor | None = None
    if part and part != _last(x, rank, heads):
        turned = write("Slice", rows, write.ints(0), write.ints(part), write.ints(-1))
        rest = write("Slice", rows, write.ints(part), write.ints(2**62), write.ints(-1))
    y = _turned(write, turned, cosine, sine, half, interleaved=bool(write.attr("interleaved", 0)))
    if rest is not None:
        y = write("Concat", y, rest, axis=-1)
    return [write("Reshape", y, write("Shape", x)) if rank == 3 else y]


def _turned(
    write: Writer, x: gs.Tensor, cosine: gs.Tensor, sine: gs.Tensor, half: int, *, interleaved: bool
) -> gs.Tensor:
    """(a, b) -> (a cos - b sin, a sin + b cos); a and b are halves of the channels, or even and odd channels."""
    if interleaved:
        ends, steps = write.ints(2**62), write.ints(2)
        a, b = (write("Slice", x, write.ints(first), ends, write.ints(-1), steps) for first in (0, 1))
    else:
        a, b = write.split(x, [half, half], -1)
    left = write("Sub", write("Mul", a, cosine), write("Mul", b, sine))
    right = write("Add", write("Mul", a, sine), write("Mul", b, cosine))
    if not interleaved:
        return write("Concat", left, right, axis=-1)
    pairs = write("Concat", *(write("Unsqueeze", t, write.ints(-1)) for t in (left, right)), axis=-1)
    return write("Reshape", pairs, write("Shape", x))


def _width(table: gs.Tensor) -> int:
    width = table.shape[-1] if table.shape else None
    if not isinstance(width, int):
        raise Miss("the width of the tables is not known")
    return width


def _last(x: gs.Tensor, rank: int, heads: int) -> int:
    """The width of a head, 0 if unknown."""
    width = x.shape[-1]
    return 0 if not isinstance(width, int) else width if rank == 4 else width // heads if heads else 0


TABLE: dict[str, Expansion] = {"RotaryEmbedding": _rotary}
