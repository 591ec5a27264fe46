"""Powers of 2^(1/tau) and an exact zero."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.log_base import LogBaseParams

LOG_BASE = schemes()["log_base"]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("tau", [0.75, 1.0, 2.0, 4.0])
def test_codes_are_the_papers_but_for_zero(bits: int, tau: float) -> None:
    """round(-tau log2(x / s)) wherever float64 is not in doubt; from 2^bits - 1 on (the paper: 2^bits) the value is
    0."""
    p = LogBaseParams(bits, 0.9, tau)
    x = np.random.default_rng(0).uniform(1e-4, 1, 20000).astype(np.float32)
    exponent = -tau * np.log2(x.astype(np.float64) / 0.9)
    sure = np.abs(exponent % 1 - 0.5) > 1e-6
    wanted = np.clip(np.rint(exponent), 0, 2**bits - 1)
    assert (LOG_BASE.encode(x, p)[sure] == wanted[sure]).all()
    values = np.where(wanted == 2**bits - 1, 0, 0.9 * 2 ** (-wanted / tau))
    np.testing.assert_allclose(LOG_BASE.fake(x, p)[sure], values[sure], rtol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_the_table_ends_with_the_normal_numbers(tau: float) -> None:
    p = LogBaseParams(8, 1.0, tau)
    values, edges = p.inputs().values()
    assert values[-1] == 0
    assert values[values > 0].min() >= np.float32(2.0**-126)
    assert (np.diff(values) <= 0).all()
    assert (np.diff(edges) <= 0).all()
    assert p.levels() == min(255, int(126 * tau) + 1)
    codes = LOG_BASE.encode(np.array([0.0, 1e-45, 1e-39, 1.0, 2.0, np.inf], np.float32), p)
    assert codes.tolist() == [255, 255, 255, 0, 0, 0]


def test_an_edge_belongs_to_the_smaller_value() -> None:
    p = LogBaseParams(4, 1.0, 1.0)
    values, edges = p.inputs().values()
    assert LOG_BASE.encode(edges, p).tolist() == list(range(1, 16))
    assert LOG_BASE.encode(np.nextafter(edges, np.float32(2)), p).tolist() == list(range(15))
    assert LOG_BASE.encode(values[:-1], p).tolist() == list(range(15))


def test_nonsense_is_refused() -> None:
    for scale, tau in ((0.0, 1.0), (1e-40, 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan"))):
        with pytest.raises(InputError):
            LogBaseParams(4, scale, tau)
