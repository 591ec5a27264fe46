"""Costs of stages, each on its own, against inference."""

from __future__ import annotations

import pytest

from benchmarks.calibration import Cost, Meter, table
from onnxptq.report.stopwatch import peak_memory


def test_each_stage_has_a_peak_of_its_own() -> None:
    found: list[Cost] = []
    meter = Meter(found.append)
    with meter.stage("large"):
        large = bytearray(200 << 20)
    del large
    before = peak_memory()
    with meter.stage("small"):
        pass
    assert [cost.stage for cost in found] == [stage.name for stage in meter.stages] == ["large", "small"]
    if before is None or peak_memory() == before:
        pytest.skip("this system does not let a process forget its peak")
    assert found[1].peak_mib < found[0].peak_mib - 100


def test_a_stage_that_fails_costs_nothing() -> None:
    found: list[Cost] = []
    with pytest.raises(KeyError), Meter(found.append).stage("failing"):
        raise KeyError
    assert not found


def test_the_whole_is_the_sum_of_the_times_and_the_largest_peak() -> None:
    lines = table([Cost("a", 1, 2, 300), Cost("b", 3, 4, 150)], Cost("base", 1, 4, 100)).splitlines()
    assert lines[2] == "| base | 1.0 | 4.0 (1.00x) | 100 MiB (1.00x) |"
    assert lines[-1] == "| all | 4.0 | 6.0 (1.50x) | 300 MiB (3.00x) |"
