"""Errors are compared in few digits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.calibrators.search.objectives import charge, few_digits
from onnxptq.ops.rows import TokenParams
from onnxptq.ops.uniform import affine


@given(st.lists(st.floats(0, 1e300), min_size=1))
def test_few_digits_are_those_that_are_printed(errors: list[float]) -> None:
    found = few_digits(errors)
    np.testing.assert_allclose(found, [float(f"{error:.5g}") for error in errors], rtol=2e-5, atol=1e-280)
    np.testing.assert_array_equal(few_digits(found), found)
    assert found[int(np.argmin(errors))] == found.min()


def test_what_differs_in_the_last_digits_is_equal() -> None:
    assert few_digits(1.23456e-7) == few_digits(1.23456e-7 * (1 + 1e-9))
    assert few_digits(1.2345) != few_digits(1.2346)
    np.testing.assert_array_equal(few_digits([0.0, np.inf, 1e-320]), [0.0, np.inf, 1e-320])


def test_ranges_at_run_time_are_charged_below_8_bits() -> None:
    assert charge("token", TokenParams(4), 40) == 4.0
    assert charge("token", TokenParams(8), 40) == charge("uniform", affine(0, 1, 4), 40) == 1.0
