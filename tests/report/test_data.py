from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.errors import InputError
from onnxptq.report.data import Drawing, Report


def round_trip(report: Report) -> Report:
    return Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))


def test_json_round_trip(report: Report, degenerate: Report) -> None:
    assert round_trip(report) == report
    assert round_trip(degenerate) == degenerate


def test_other_data_is_refused(report: Report) -> None:
    with pytest.raises(InputError, match="report format 2, this version reads 1"):
        Report.from_json(report.to_json() | {"report": 2})
    with pytest.raises(InputError, match="x: not a report written by onnxptq"):
        Report.from_json({"report": 1}, name="x")


def test_worst_ten(report: Report) -> None:
    worst = [site.sqnr for site in report.worst]
    assert len(worst) == 10
    assert worst == sorted(worst)  # type: ignore[type-var]
    assert worst[0] == min(site.sqnr for site in report.sites if site.sqnr is not None)


def test_sites_without_a_figure_are_not_the_worst(degenerate: Report) -> None:
    assert [site.sqnr for site in degenerate.worst] == [math.inf]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=700), st.integers(1, 130))
def test_drawing_keeps_every_count(counts: list[int], bins: int) -> None:
    edges = np.linspace(-1, 1, len(counts) + 1)
    drawing = Drawing.of(np.array(counts), edges, [0.0], bins=bins)
    assert sum(drawing.counts) == sum(counts)
    assert len(drawing.counts) <= bins
    assert len(drawing.edges) == (len(drawing.counts) + 1 if any(counts) else 0)
    if any(counts):
        first, last = np.flatnonzero(counts)[[0, -1]]
        assert (drawing.edges[0], drawing.edges[-1]) == (edges[first], edges[last + 1])
