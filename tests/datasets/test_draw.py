"""Draws: a limit takes samples at random by the seed, or the first ones; no limit takes all in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import InputSpec, Source
from onnxptq.datasets.draw import Draw
from onnxptq.errors import InputError


def test_draws() -> None:
    items = list(range(50))
    assert Draw().of(items) == items
    assert Draw(8, "first").of(items) == items[:8]
    drawn = Draw(8).of(items)
    assert len(set(drawn)) == 8
    assert drawn != items[:8]
    assert drawn == Draw(8).of(items) == Draw(20).of(items)[:8], "more samples do not change the first ones"
    assert Draw(8, seed=1).of(items) != drawn
    assert sorted(Draw(99).of(items)) == items


@pytest.mark.parametrize("stacked", [False, True])
def test_files_are_drawn(stacked: bool, tmp_path: Path) -> None:
    given = np.arange(20, dtype=np.float32).reshape(20, 1, 1)
    if stacked:
        np.savez(tmp_path / "all.npz", x=given)
    else:
        for number, one in enumerate(given):
            np.savez(tmp_path / f"{number:02}.npz", x=one)
    where = tmp_path / "all.npz" if stacked else tmp_path
    inputs = [InputSpec("x", np.dtype(np.float32), (1, 1))]

    def taken(source: Source) -> list[int]:
        return [int(sample["x"].item()) for sample in source]

    assert taken(open_source(where, inputs=inputs)) == list(range(20))
    assert taken(open_source(where, inputs=inputs, samples=5, draw="first")) == list(range(5))
    assert taken(open_source(where, inputs=inputs, samples=5, seed=3)) == Draw(5, seed=3).of(list(range(20)))
    with pytest.raises(InputError, match="--draw best: choose random or first"):
        open_source(where, inputs=inputs, draw="best")  # type: ignore[arg-type]
