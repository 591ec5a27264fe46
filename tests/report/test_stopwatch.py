from __future__ import annotations

import pytest

from onnxptq.report.stopwatch import Stopwatch, peak_memory


def test_stopwatch() -> None:
    watch = Stopwatch()
    with watch.stage("one"):
        pass
    with pytest.raises(ValueError, match="x"), watch.stage("two"):
        raise ValueError("x")
    assert [stage.name for stage in watch.stages] == ["one"]
    assert watch.stages[0].seconds >= 0
    assert peak_memory() is None or watch.stages[0].peak
