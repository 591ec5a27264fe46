"""The axis of tokens is followed through the graph, and lost where it is mixed away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxptq.calibration.padding import unpadded, valid_rows
from onnxptq.graph.dataflow.tokens import Padding, token_axes
from tests.calibration.small import encoder, model


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_text_encoder(dynamic: bool) -> None:
    found = token_axes(encoder(dynamic=dynamic), {"mask": "ids"})
    assert {name: found[name].axis for name in ("ids", "e", "q0", "q1", "q", "kt", "s", "p", "a", "at", "ar", "y")} == {
        "ids": -1,
        "e": -2,
        "q0": -2,
        "q1": -3,
        "q": -2,
        "kt": -1,
        "s": -2,
        "p": -2,
        "a": -2,
        "at": -3,
        "ar": -2,
        "y": -2,
    }
    assert "m" not in found


CASES: dict[str, tuple[str, int | None]] = {
    "elementwise": "h = Gelu(e) y = Identity(h)",
    "lost by a mean": "h = ReduceMean<keepdims = 0>(e, one) y = Unsqueeze(h, one)",
    "kept by a mean": "h = ReduceMean<keepdims = 0>(e, two) y = Identity(h)",
    "first token only": "h = Gather<axis = 1>(e, zero) y = Unsqueeze(h, one)",
    "merged with the batch": "f = Reshape(e, merged) h = Neg(f) y = Reshape(h, apart)",
    "and parted again": "f = Reshape(e, merged) h = Reshape(f, apart) y = Neg(h)",
    "flattened": "f = Flatten<axis = 2>(e) h = Neg(f) y = Reshape(h, apart)",
    "split": "h, o = Split<axis = 2, num_outputs = 2>(e) y = Neg(h)",
    "split tokens": "h, o = Split<axis = 1, num_outputs = 2>(e) y = Neg(h)",
    "concatenated": "h = Concat<axis = 2>(e, e) y = Neg(h)",
    "concatenated tokens": "h = Concat<axis = 1>(e, e) y = Neg(h)",
    "convolved": "t = Transpose<perm = [0, 2, 1]>(e) h = Conv<kernel_shape = [1]>(t, kernel) y = Neg(h)",
    "sliced channels": "h = Slice(e, zero1, one, two) y = Neg(h)",
    "einsum": 'h = Einsum<equation = "btc,cd->bdt">(e, square) y = Neg(h)',
    "attended": "t = Transpose<perm = [0, 2, 1]>(e) h = MatMul(t, e) y = Neg(h)",
    "unknown op": "h = CumSum(e, zero) y = Neg(h)",
}
EXPECTED = {
    "elementwise": -2,
    "lost by a mean": None,
    "kept by a mean": -1,
    "first token only": None,
    "merged with the batch": -2,
    "and parted again": -2,
    "flattened": -2,
    "split": -2,
    "split tokens": None,
    "concatenated": -2,
    "concatenated tokens": None,
    "convolved": -1,
    "sliced channels": -2,
    "einsum": -1,
    "attended": None,
    "unknown op": None,
}


@pytest.mark.parametrize("name", CASES)
def test_one_step(name: str) -> None:
    held = model(
        f"(int64[3, 6] ids, int64[3, 6] mask) => (float[a, b, c] y) {{ e = Gather(table, ids) {CASES[name]} }}",
        table=np.ones((5, 4), np.float32),
        square=np.ones((4, 4), np.float32),
        kernel=np.ones((4, 4, 1), np.float32),
        merged=np.array([18, 4]),
        apart=np.array([3, 6, 4]),
        zero=np.array(0),
        zero1=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    found = token_axes(held, {"mask": "ids"}).get("h")
    assert (found.axis if found is not None else None) == EXPECTED[name]


def test_the_token_input_may_be_unknown() -> None:
    assert token_axes(encoder(), {"mask": ""})["e"] == Padding("mask", -2)
    assert token_axes(encoder(), {"other": "ids"}) == {}


MASK = np.array([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("shape", "axis", "channels", "expected"),
    [
        ((2, 3, 4), -2, None, (3, 4)),
        ((2, 3, 4), 1, -1, (3, 4)),
        ((4, 3, 5), -2, -1, (6, 5)),  # heads folded into the batch
        ((2, 7, 3, 5), -2, (-3, -1), (1, 7, 3, 5)),  # channels before the tokens: axes stay
        ((6, 4), 0, None, (3, 4)),  # batch and tokens merged
        ((2, 3), -1, None, (3,)),
        ((2, 9, 4), -2, None, (2, 9, 4)),  # other tokens
        ((3, 3, 4), -2, None, (3, 3, 4)),  # other batch
        ((2, 4, 3), -1, -1, (2, 4, 3)),  # the tokens are the channels
        ((4,), -2, None, (4,)),
    ],
)
def test_valid_rows(shape: tuple[int, ...], axis: int, channels: Any, expected: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = valid_rows(x, MASK, axis, channels)
    assert found.shape == expected
    if shape == (2, 3, 4):
        np.testing.assert_array_equal(found, [x[0, 0], x[0, 1], x[1, 0]])
    if shape == (4, 3, 5):
        np.testing.assert_array_equal(found, [x[0, 0], x[0, 1], x[1, 0], x[1, 1], x[2, 0], x[3, 0]])
    if shape == (2, 7, 3, 5):
        np.testing.assert_array_equal(found[0, :, 2], x[1, :, 0])


def test_masks_of_other_ranks() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = valid_rows(x, MASK, -2, -1)
    np.testing.assert_array_equal(valid_rows(x, MASK[:, None, None].astype(bool), -2, -1), expected)
    np.testing.assert_array_equal(valid_rows(x[:1], MASK[0], -2, -1), expected[:2])


def test_padded_tokens_count_in_no_figure() -> None:
    """What a model makes of tokens that nobody reads is neither signal nor error."""
    made = encoder(dynamic=False)
    axes = token_axes(made, {"mask": "ids"})
    shape = tuple(made.graph.tensors()["y"].shape)
    mask = np.ones(made.graph.tensors()["mask"].shape, np.int64)
    mask[..., -1] = 0
    rng = np.random.default_rng(0)
    y = rng.normal(size=shape).astype(np.float32)
    other = y.copy()
    np.moveaxis(other, axes["y"].axis, 0)[-1] += 1e6
    cut = unpadded(made, {"mask": "ids"})
    a, b = cut({"y": y, "s": y}, {"mask": mask}), cut({"y": other}, {"mask": mask})
    assert a["y"].size == y.size * (mask.shape[-1] - 1) // mask.shape[-1]
    np.testing.assert_array_equal(a["y"], b["y"])
    np.testing.assert_array_equal(unpadded(made, {})({"y": other}, {})["y"], other)
