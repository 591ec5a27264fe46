"""The split of samples between calibration, selection and the report."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.calibration.sources.source import InputSpec, Listed
from onnxptq.calibration.sources.split import extra, split_samples

SPEC = InputSpec("x", np.dtype(np.float32), (1,))


def source(count: int) -> Listed:
    return Listed([{"x": np.array([i], np.float32)} for i in range(count)], [SPEC], limit=None)


def numbers(part: object) -> list[int]:
    return [int(sample["x"][0]) for sample in part]  # type: ignore[attr-defined]


@pytest.mark.parametrize("selecting", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 2, 8, 16])
@pytest.mark.parametrize("count", [5, 6, 16, 24, 36, 100])
def test_the_report_sees_what_nothing_saw(count: int, limit: int | None, selecting: bool) -> None:
    if limit is not None and limit > count:
        pytest.skip("a source gives no more than the limit and what is asked besides")
    split = split_samples(source(count), limit, selecting=selecting)
    assert split.apart
    parts = [split.calibration, split.report, *([split.selection] if selecting else [])]
    seen = [number for part in parts for number in numbers(part)]
    assert len(seen) == len(set(seen))
    assert all(len(part) for part in parts)
    assert limit is None or len(split.calibration) <= limit
    if not selecting:
        assert split.selection is split.calibration


def test_a_source_with_more_gives_all_that_was_asked_for() -> None:
    for selecting in (False, True):
        split = split_samples(source(16 + extra(16, selecting=selecting)), 16, selecting=selecting)
        assert len(split.calibration) == 16
        assert len(split.report) == 4
        assert len(split.selection) == 16


def test_few_samples_do_for_everything() -> None:
    for count in (1, 4):
        split = split_samples(source(count), None, selecting=True)
        assert not split.apart
        assert len(split.calibration) == len(split.selection) == len(split.report) == count


def test_two_samples_cost_no_more_than_two_more_each() -> None:
    assert extra(2, selecting=True) == 4
    assert extra(None, selecting=True) == 0
