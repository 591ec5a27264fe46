"""In-graph observers equal statistics of fetched tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.statistics.base import Observed, Request
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import AverageRange, Moments, Range
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.errors import InputError
from tests.calibration.small import HAS_LIBRARY, encoder, model, samples, sentences, source

pytestmark = [pytest.mark.native, pytest.mark.skipif(not HAS_LIBRARY, reason="no compiled op library here")]

KINDS: dict[str, Callable[[], Observed]] = {
    "range": Range,
    "moments": Moments,
    "average": AverageRange,
    "histogram": Histogram,
    "channels": lambda: Moments(-1),
    "heads": lambda: Range(-3, 2),
    "heads and channels": lambda: Moments((-3, -1), 2),
    "rows": lambda: RowSample(7, seed=5),
    "rows of heads and channels": lambda: RowSample(7, (-3, -1), 2),
    "rows of columns": lambda: RowSample(7, -2),
}
SHAPES = {
    "matrix": (40, 12),
    "tokens": (2, 30, 12),
    "heads": (3, 2, 10, 6),
    "folded heads": (6, 10, 6),
    "large": (2, 300, 260),
    "one": (1,),
    "empty": (0, 2, 5, 3),
}


def both(
    held: Any, given: Any, name: str, make: Callable[[], Observed], masks: dict[str, str] | None = None
) -> tuple[Observed, Observed]:
    """The statistic by observers and by fetching; the first must really come from an observer."""
    found = []
    for observers in (True, False):
        statistic = make()
        engine = Engine(held, source(held, given), observers=observers, threads=2, masks=masks)
        engine.fill({"t": Request(name, statistic)}, stage="walk")
        assert engine.walks[0].tapped == int(observers)
        found.append(statistic)
    return found[0], found[1]


def same(tapped: Observed, fetched: Observed) -> None:
    for key, array in fetched.arrays().items():
        if key in ("total", "squares"):
            np.testing.assert_allclose(tapped.arrays()[key], array, rtol=1e-12, atol=1e-9)
        else:
            np.testing.assert_array_equal(tapped.arrays()[key], array)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_observers_agree_with_fetched_tensors(kind: str, shape: str) -> None:
    sizes = SHAPES[shape]
    if "heads" in kind and ("heads" not in shape and shape != "empty"):
        pytest.skip("no heads in this shape")
    if kind in ("rows", "rows of columns") and sizes == (1,):
        sizes = (1, 1)
    dims = ", ".join(map(str, sizes))
    held = model(f"(float[{dims}] x) => (float[{dims}] y) {{ h = Neg(x) y = Exp(h) }}")
    rng = np.random.default_rng(0)
    given = [{"x": (rng.standard_normal(sizes) * 10.0**power).astype(np.float32)} for power in (-30, 0, 2)]
    same(*both(held, given, "h", KINDS[kind]))


@pytest.mark.parametrize("kind", [k for k in KINDS if "heads" not in k and "columns" not in k])
@pytest.mark.parametrize("name", ["e", "q0", "q", "v", "p", "a", "o"])
def test_padded_tokens_are_left_out(name: str, kind: str) -> None:
    same(*both(encoder(), sentences(), name, KINDS[kind], {"mask": "ids"}))


def test_pixels_of_a_convolution() -> None:
    held = model("(float[2, 3, 8, 8] x) => (float[2, 3, 8, 8] y) { h = Neg(x) y = Exp(h) }")
    given = [{"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}]
    same(*both(held, given, "h", lambda: RowSample(20, 1)))
    same(*both(held, given, "h", lambda: Range(1)))


def test_graph_inputs_can_be_observed() -> None:
    held = model("(float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }")
    same(*both(held, [{"x": np.arange(6, dtype=np.float32).reshape(2, 3)}], "x", Histogram))


@pytest.mark.parametrize("kind", ["range", "histogram", "channels", "average"])
def test_nan_inside_the_model_is_seen(kind: str) -> None:
    held = model("(float[2, 2] x) => (float[2, 2] y) { h = Log(x) y = Exp(h) }")
    given = [{"x": np.array([[1, 2], [3, -1]], np.float32)}]
    with pytest.raises(InputError, match="calibration sample 0: tensor 'h' holds NaN or infinity"):
        Engine(held, source(held, given)).fill({"h": Request("h", KINDS[kind]())}, stage="walk")


def test_statistics_with_and_without_observers_share_a_walk() -> None:
    held = model("(float[batch, 6, 8] x) => (float[batch, 6, 8] y) { h = Neg(x) y = Exp(h) }")

    class Last(Range):
        def observer(self) -> None:
            return None

        def kind(self) -> str:
            return "last"

    plain, observed = Last(), Range()
    engine = Engine(held, source(held, samples()))
    engine.fill({"a": Request("h", plain), "b": Request("h", observed)}, stage="walk")
    assert (engine.walks[0].tapped, engine.walks[0].fetched, engine.walks[0].forwards) == (1, 1, 4)
    assert (plain.low, plain.high) == (observed.low, observed.high)
