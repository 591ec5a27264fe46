"""refit: the weight of a linear in closed form, from its coded input and its wanted output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64
from onnxptq.calibrators.search.gptq import decoded, gptq, nearest
from onnxptq.calibrators.search.objectives import uniform_codes
from onnxptq.ops.uniform import UniformParams

COARSE, FINE = tuple(np.linspace(0.4, 1.0, 6)), (-0.08, -0.04, 0.0, 0.04, 0.08)
"""Shares of a range tried on either side, and offsets tried around the best of them."""
GAINS = (0.8, 1.5)
"""Limits of an output's gain."""


@dataclass(frozen=True)
class Settings:
    """Steps of the refit; each can be switched off."""

    solve: bool = True
    """Ridge regression onto the wanted output, where there are enough rows."""
    gptq: bool = True
    debias: bool = True
    """Outputs scaled so that they regress on the original ones with slope 1."""
    bias: bool = True
    """Correct the means of outputs."""
    residual: bool = True
    """Let a linear that is added to a residual stream compensate for the stream's error so far."""
    damp: float = 0.1
    damp_few: float = 0.3
    """Share of the inputs' mean power added to each: where the weight is solved for, and where it is not."""
    rows: int = 4
    """Least rows per input for which a weight is solved; at most twice that, or 4096, are read."""


class InputMoments:
    """Sums over rows of a linear's coded input A, of its wanted output T, and of the whole S that T is part of.

    T is the original output plus the missing part of the residual stream; S is the original output plus the original
    residual stream, R the quantized residual stream (zero where the linear writes into none).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self._a, self._t, self._s, self._r = np.zeros(inputs), np.zeros(outputs), np.zeros(outputs), np.zeros(outputs)
        self._aa = np.zeros((inputs, inputs))
        self._at, self._as = np.zeros((inputs, outputs)), np.zeros((inputs, outputs))
        self._ss, self._rs = np.zeros(outputs), np.zeros(outputs)
        self._residual = False

    def add(self, a: F32, output: F32 | F64 | None = None, residuals: tuple[F32, F32] | None = None) -> None:
        """Add rows: coded inputs, and where the weight is to be solved for the original outputs and both residual
        streams."""
        rows = a.astype(np.float64)
        self.count += len(rows)
        self._a += rows.sum(axis=0)
        self._aa += rows.T @ rows
        if output is None:
            return
        whole = wanted = output.astype(np.float64)
        if residuals is not None:
            self._residual = True
            original, quantized = (r.astype(np.float64) for r in residuals)
            whole = wanted + original
            wanted = whole - quantized
            self._r += quantized.sum(axis=0)
            self._rs += (quantized * whole).sum(axis=0)
            self._as += rows.T @ whole
        self._t += wanted.sum(axis=0)
        self._s += whole.sum(axis=0)
        self._at += rows.T @ wanted
        self._ss += np.square(whole).sum(axis=0)

    def merge(self, other: InputMoments) -> None:
        """Add the sums over other rows."""
        self.count += other.count
        self._residual |= other._residual
        for name in ("_a", "_t", "_s", "_r", "_aa", "_at", "_as", "_ss", "_rs"):
            held = getattr(self, name)
            held += getattr(other, name)

    @property
    def _rows(self) -> int:
        return max(self.count, 1)

    def hessian(self) -> F64:
        """Covariance of the inputs."""
        return self._aa / self._rows - np.outer(self._a, self._a) / self._rows**2

    def rounding(self) -> float:
        """A power far below that of the inputs, yet above the rounding noise of constant inputs."""
        return 1e-9 * float(np.diag(self._aa).mean()) / self._rows + float(np.finfo(np.float32).tiny)

    def wanted(self) -> F64:
        """Covariance [K, N] of inputs and wanted output."""
        return self._at / self._rows - np.outer(self._a, self._t) / self._rows**2

    def gain(self, weight: F64) -> F64:
        """Factor of each output with which the whole regresses on the original whole with slope 1."""
        n = self._rows
        joint = self._as if self._residual else self._at
        joint = joint / n - np.outer(self._a, self._s) / n**2
        missing = self._ss / n - (self._s / n) ** 2 - (self._rs / n - self._r * self._s / n**2)
        slope = (weight * joint).sum(axis=0)
        with np.errstate(all="ignore"):
            gain = missing / slope
        return np.clip(np.where(np.isfinite(gain) & (slope > 0), gain, 1.0), *GAINS)

    def shift(self, weight: F64) -> F64:
        """The correction of the means."""
        return (self._t - self._a @ weight) / self._rows

    def moved(self, change: F64) -> F64:
        """Change of the means caused by a change of the weight."""
        return self._a @ change / self._rows


@dataclass(frozen=True)
class Refit:
    """A weight's codes, their values, and the correction of the bias."""

    scale: F32
    zero: NDArray[np.uint8]
    weight: F32
    shift: F32
    solved: bool


def refit(weight: F32, moments: InputMoments, bits: int, *, symmetric: bool, solve: bool, settings: Settings) -> Refit:
    """The weight [K, N] in closed form; ``solve``: the rows suffice to take the output from the original stream."""
    hessian = moments.hessian()
    ridge = (settings.damp if solve else settings.damp_few) * float(np.diag(hessian).mean()) + moments.rounding()
    damped = hessian + ridge * np.eye(len(hessian))
    target = weight.astype(np.float64)
    if solve:
        # few digits: the last ones depend on the number of threads, and codes must not
        target = np.linalg.solve(damped, moments.wanted() + ridge * target).astype(np.float32).astype(np.float64)
    scale, zero = ranges(target, np.diag(damped), bits, symmetric=symmetric)
    codes = gptq(target, damped, scale, zero, bits) if settings.gptq else nearest(target, scale, zero, bits)
    if solve and settings.debias:
        scale = (scale * moments.gain(decoded(codes, scale, zero).astype(np.float64))).astype(np.float32)
    values = decoded(codes, scale, zero)
    shift = moments.shift(values.astype(np.float64)) if solve else moments.moved(target - values)
    return Refit(scale, zero, values, (shift if settings.bias else np.zeros_like(shift)).astype(np.float32), solve)


def ranges(weight: F64, power: F64, bits: int, *, symmetric: bool) -> tuple[F32, NDArray[np.uint8]]:
    """Scale and zero-point [N] of each output's weights, by least squared error weighted by the power of the inputs.

    Shares of the extrema on either side are tried: a coarse grid, then a fine one around each output's best.
    """
    rows = weight.T.astype(np.float32)
    share = np.sqrt(power / max(float(power.mean()), 1e-300)).astype(np.float32)
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    best = np.full(len(rows), np.inf)
    parts = np.ones((2, len(rows)))
    scale, zero = np.ones(len(rows), np.float32), np.zeros(len(rows), np.uint8)
    for steps, around in ((COARSE, np.zeros((2, len(rows)))), (FINE, parts)):
        centre = around.copy()
        for a, b in [(w, w) for w in steps] if symmetric else [(a, b) for a in steps for b in steps]:
            tried = np.clip(centre + np.array([[a], [b]]), COARSE[0], COARSE[-1])
            codes = uniform_codes(low * tried[0], high * tried[1], bits, signed=symmetric)
            error = _error(rows, codes, share)
            better = error < best
            best, parts[:, better] = np.where(better, error, best), tried[:, better]
            scale, zero = np.where(better, codes.scale, scale), np.where(better, codes.zero, zero)
    return scale, zero


def _error(rows: F32, codes: UniformParams, share: F32) -> F64:
    """Weighted squared error of each row, coded with its own scale and zero-point."""
    held = rows / codes.scale[:, None]
    lowest = -codes.zero.astype(np.float32)[:, None]
    change = np.rint(held)
    np.clip(change, lowest, lowest + (2**codes.bits - 1), out=change)
    change -= held
    change *= share
    found: F64 = np.einsum("nk,nk->n", change, change).astype(np.float64) * np.square(codes.scale, dtype=np.float64)
    return found
