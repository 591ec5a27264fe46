"""Rows of a linear matched with rows of the residual stream, through windows, padding and transpositions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxptq.calibration.residuals import Residuals
from tests.passes.graphs import Builder


def block(
    *, roll: bool = False, pad: bool = False, channels_first: bool = False, twice: bool = False
) -> tuple[onnx.ModelProto, str]:
    """A linear on windows of 2 x 2, brought back to the image [1, H, W, 8], and added to it."""
    b = Builder(0)
    side = 3 if pad else 4
    x = b.node("Pad", "x", b.ints(0, 0, 0, 0, 0, 1, 1, 0)) if pad else "x"
    x = b.node("Transpose", b.node("Reshape", x, b.ints(1, 2, 2, 2, 2, 8)), perm=[0, 1, 3, 2, 4, 5])
    y = b.linear(b.node("Reshape", x, b.ints(4, 4, 8)), b.floats(8, 8), b.floats(8))
    y = b.node("Transpose", b.node("Reshape", y, b.ints(1, 2, 2, 2, 2, 8)), perm=[0, 1, 3, 2, 4, 5])
    y = b.node("Reshape", y, b.ints(1, 4, 4, 8))
    if roll:
        y = b.node(
            "Concat", *(b.node("Slice", y, b.ints(s), b.ints(e), b.ints(1)) for s, e in ((1, 4), (0, 1))), axis=1
        )
    if pad:
        y = b.node("Slice", y, b.ints(0, 0), b.ints(3, 3), b.ints(1, 2))
    stream = "x"
    if channels_first:
        y, stream = b.node("Transpose", y, perm=[0, 3, 1, 2]), b.node("Transpose", "x", perm=[0, 3, 1, 2])
    out = b.node("Add", stream, y, out="y")
    if twice:
        b.node("Relu", y, out="z")
    model, _ = b.build({"x": [1, side, side, 8]}, ["y", "z"] if twice else [out])
    return model.to_proto(), next(iter(b.linears))


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("pad", [False, True])
def test_rows_meet(roll: bool, pad: bool) -> None:
    proto, name = block(roll=roll, pad=pad)
    residual = Residuals(proto).of(name)
    assert residual is not None
    assert residual.stream == "x"
    side = 3 if pad else 4
    places = residual.places((4, 4, 8), (1, side, side, 8))
    image = np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    back = np.roll(image, -1, axis=0) if roll else image
    for place, row in np.ndenumerate(back[:side, :side]):
        assert places[row] == place[0] * side + place[1]
    assert (places == -1).sum() == 16 - side * side


def test_what_is_no_residual_stream() -> None:
    proto, name = block(channels_first=True)
    found = Residuals(proto).of(name)
    assert found is None or found.places((4, 4, 8), (1, 8, 4, 4)) is None
    proto, name = block(twice=True)
    assert Residuals(proto).of(name) is None


def test_straight_and_broadcast_additions() -> None:
    b = Builder(0)
    y = b.linear("x", b.floats(8, 8), b.floats(8))
    b.node("Add", y, "r", out="y")
    model, _ = b.build({"x": [2, 3, 8], "r": [1, 3, 8]}, ["y"])
    residual = Residuals(model.to_proto()).of(next(iter(b.linears)))
    assert residual is not None
    assert residual.places((2, 3, 8), (1, 3, 8)) is None
    assert np.array_equal(residual.places((2, 3, 8), (2, 3, 8)), np.arange(6))
