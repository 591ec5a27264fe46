"""Learned rounding: closed values of its functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxptq.learn.rounding import Rounding, beta, inverse, rectified, regulariser  # noqa: E402

CPU = torch.device("cpu")


def test_the_rectified_sigmoid_has_closed_values_and_an_inverse() -> None:
    assert float(rectified(torch.tensor(0.0))) == pytest.approx(0.5)
    assert float(rectified(torch.tensor(math.log(3.0)))) == pytest.approx(1.2 * 0.75 - 0.1)
    assert rectified(torch.tensor([-20.0, 20.0])).tolist() == [0.0, 1.0]
    h = torch.linspace(0, 1, 11)
    torch.testing.assert_close(rectified(inverse(h)), h)


def test_the_regulariser_counts_what_is_undecided() -> None:
    alpha = inverse(torch.tensor([0.0, 1.0, 0.5, 0.75]))
    assert float(regulariser(alpha, 2.0)) == pytest.approx(0 + 0 + 1 + (1 - 0.25), abs=1e-5)
    assert float(regulariser(alpha, 20.0)) == pytest.approx(1 + (1 - 0.5**20), abs=1e-5)


def test_the_exponent_is_annealed_after_the_warm_up() -> None:
    assert beta(0, 1000) is None
    assert beta(199, 1000) is None
    assert beta(200, 1000) == pytest.approx(20.0)
    assert beta(600, 1000) == pytest.approx(11.0)
    assert beta(1000, 1000) == pytest.approx(2.0)


def test_the_gradient_of_rounding_against_finite_differences() -> None:
    alpha = torch.tensor([-1.0, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rectified, (alpha,))
    assert torch.autograd.gradcheck(lambda a: regulariser(a, 3.0), (alpha,))


def test_learning_starts_at_the_weight_and_ends_on_the_grid() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    scale, zero = np.full((1, 3), 0.25, np.float32), np.full((1, 3), 8, np.uint8)
    rounding = Rounding(weight, scale, zero, 4, CPU)
    inside = np.clip(weight, -8 * 0.25, 7 * 0.25)
    np.testing.assert_allclose(rounding.soft().detach().numpy(), inside, atol=1e-5)
    nearest = np.clip(np.floor(weight / 0.25 + 0.5), -8, 7) * 0.25
    np.testing.assert_array_equal(rounding.hard().numpy(), nearest)


def test_hard_is_soft_where_all_is_decided() -> None:
    rounding = Rounding(np.array([[0.1, 0.2]], np.float32), np.float32(0.3), np.uint8(0), 3, CPU)
    with torch.no_grad():
        rounding.alpha.copy_(torch.tensor([[-9.0, 9.0]]))
    torch.testing.assert_close(rounding.soft(), rounding.hard())
    assert rounding.hard().tolist() == [[0.0, pytest.approx(0.3)]]
