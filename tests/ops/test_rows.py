"""Codes with the range of each row."""

from __future__ import annotations

import numpy as np

from onnxptq.ops import schemes
from onnxptq.ops.rows import RowParams, TokenParams, row_range
from onnxptq.ops.uniform import SMALLEST, affine

UNIFORM = schemes()["uniform"]


def test_rows_agree_with_their_own_static_codes() -> None:
    x = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32) * np.array([[1e-3], [1], [50], [0]], np.float32)
    for bits in range(2, 9):
        faked = schemes()["token"].fake(x, TokenParams(bits))
        for row, want in zip(x, faked, strict=True):
            np.testing.assert_array_equal(UNIFORM.fake(row, affine(row.min(), row.max(), bits)), want)
        positive = np.abs(x)
        np.testing.assert_array_equal(
            schemes()["row"].fake(positive, RowParams(bits)), schemes()["token"].fake(positive, TokenParams(bits))
        )


def test_row_range_ignores_what_is_no_number() -> None:
    scale, zero = row_range(np.array([[np.nan, np.nan], [np.nan, 3.0]], np.float32), 2)
    assert scale.ravel().tolist() == [np.float32(SMALLEST), 1.0]
    assert zero.ravel().tolist() == [0, 0]


def test_empty_rows_have_a_range() -> None:
    scale, zero = row_range(np.zeros((2, 0), np.float32), 4)
    assert scale.shape == zero.shape == (2, 1)
