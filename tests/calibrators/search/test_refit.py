"""Weights in closed form: GPTQ, ridge, debias and bias, each against its purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxptq.calibrators.search.gptq import decoded, gptq, nearest
from onnxptq.calibrators.search.refit import InputMoments, Refit, Settings, ranges, refit


def problem(seed: int = 0, rows: int = 400, inputs: int = 24, outputs: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Correlated inputs, and a weight."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) * np.linspace(0.1, 2, inputs)
    a = rng.standard_normal((rows, inputs)) @ mixing + rng.standard_normal(inputs)
    return a.astype(np.float32), rng.standard_normal((inputs, outputs)).astype(np.float32)


def found(
    a: np.ndarray,
    w: np.ndarray,
    output: np.ndarray | None,
    bits: int = 4,
    streams=None,
    solve: bool = True,
    **off: float,
) -> Refit:
    moments = InputMoments(*w.shape)
    for part in np.array_split(np.arange(len(a)), 3):
        moments.add(
            a[part],
            None if output is None else output[part],
            None if streams is None else tuple(s[part] for s in streams),
        )
    return refit(w, moments, bits, symmetric=False, solve=solve, settings=replace(Settings(), **off))


def error(a: np.ndarray, w: np.ndarray, one: Refit) -> float:
    return float(np.square(a @ one.weight + one.shift - a @ w).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_beats_rounding(seed: int, bits: int) -> None:
    a, w = problem(seed)
    centred = a - a.mean(axis=0)
    hessian = (centred.T @ centred / len(a) + 0.01 * np.eye(a.shape[1])).astype(np.float64)
    scale, zero = ranges(w.astype(np.float64), np.diag(hessian), bits, symmetric=False)
    errors = []
    for how in (lambda: gptq(w.astype(np.float64), hessian, scale, zero, bits), lambda: nearest(w, scale, zero, bits)):
        change = decoded(how(), scale, zero) - w
        errors.append(float(np.trace(change.T @ hessian @ change)))
    assert errors[0] < errors[1]


def test_gptq_of_independent_inputs_is_rounding() -> None:
    _, w = problem(1)
    scale, zero = ranges(w.astype(np.float64), np.ones(len(w)), 4, symmetric=False)
    assert np.array_equal(gptq(w.astype(np.float64), np.eye(len(w)), scale, zero, 4), nearest(w, scale, zero, 4))


@pytest.mark.parametrize(("inputs", "bits"), [(24, 4), (150, 3)])
def test_gptq_makes_up_for_errors_as_the_inverse_says(inputs: int, bits: int) -> None:
    """The codes are those of the usual form, which passes errors on along the Cholesky factor of the inverse."""
    a, w = problem(6, inputs=inputs)
    hessian = (a.T @ a / len(a) + 0.1 * np.eye(inputs)).astype(np.float64)
    scale, zero = ranges(w.astype(np.float64), np.diag(hessian), bits, symmetric=False)
    order = np.argsort(-np.diag(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left, wanted = w[order].astype(np.float64), np.empty(w.shape, np.uint8)
    for i, k in enumerate(order):
        wanted[k] = nearest(left[i : i + 1], scale, zero, bits)
        error = (left[i] - decoded(wanted[k : k + 1], scale, zero)[0]) / upper[i, i]
        left[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    assert np.array_equal(gptq(w.astype(np.float64), hessian, scale, zero, bits), wanted)


def test_means_come_out_right() -> None:
    a, w = problem(2)
    for one in (found(a, w, a @ w), found(a, w, None, solve=False)):
        assert np.allclose((a @ one.weight + one.shift).mean(axis=0), (a @ w).mean(axis=0), atol=1e-4)
    one = found(a, w, a @ w)
    assert not np.allclose((a @ one.weight).mean(axis=0), (a @ w).mean(axis=0), atol=1e-2)
    assert not found(a, w, a @ w, bias=False).shift.any()


def test_the_output_regresses_on_the_original_with_slope_one() -> None:
    a, w = problem(3, rows=2000)
    noisy = a + np.random.default_rng(1).normal(0, 1, a.shape).astype(np.float32)
    slopes = {}
    for debias in (True, False):
        one = found(noisy, w, a @ w, debias=debias)
        y, got = a @ w, noisy @ one.weight
        y, got = y - y.mean(axis=0), got - got.mean(axis=0)
        slopes[debias] = (y * got).sum(axis=0) / np.square(y).sum(axis=0)
    assert np.allclose(slopes[True], 1, atol=1e-3)
    assert slopes[False].mean() < 0.98


def test_solving_makes_up_for_coded_inputs_and_residuals() -> None:
    a, w = problem(4, rows=2000)
    rng = np.random.default_rng(2)
    coded = a + 0.5 * (a @ rng.standard_normal((a.shape[1], a.shape[1])).astype(np.float32)) / 5
    original = rng.standard_normal((len(a), w.shape[1])).astype(np.float32)
    quantized = original - 0.3 * (coded[:, : w.shape[1]])
    whole = a @ w + original

    def left(one: Refit) -> float:
        return float(np.square(coded @ one.weight + one.shift + quantized - whole).mean())

    plain = found(coded, w, None, bits=8, solve=False)
    solved = found(coded, w, a @ w, bits=8, damp=1e-4)
    with_stream = found(coded, w, a @ w, bits=8, damp=1e-4, streams=(original, quantized))
    assert left(with_stream) < 0.05 * left(solved) < 0.05 * left(plain)


def test_degenerate_inputs() -> None:
    w = np.zeros((3, 2), np.float32)
    w[0, 0] = 1.0
    constant = np.ones((20, 3), np.float32)
    one = found(constant, w, constant @ w)
    assert np.isfinite(one.weight).all()
    assert np.allclose(constant @ one.weight + one.shift, constant @ w, atol=1e-5)
    nothing = found(0 * constant, w, 0 * constant @ w)
    assert np.isfinite(nothing.weight).all()
    assert nothing.weight[0, 0] == pytest.approx(1.0, rel=0.1)
    unseen = refit(w, InputMoments(3, 2), 4, symmetric=False, solve=False, settings=Settings())
    assert np.array_equal(unseen.weight, nothing.weight)
    assert not unseen.shift.any()


def test_codes_survive_storage() -> None:
    """What is stored in the model is found again by encoding it with the parameters."""
    a, w = problem(5)
    one = found(a, w, a @ w, bits=3)
    assert np.array_equal(decoded(nearest(one.weight, one.scale, one.zero, 3), one.scale, one.zero), one.weight)
