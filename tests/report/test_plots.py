from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from onnxptq.report import plots
from onnxptq.report.data import Drawing, Report


def test_svg_is_xml_and_inside_its_box(report: Report) -> None:
    for drawn in (
        plots.depth(report.layers),
        *(plots.histogram(s.drawing, label="<x>") for s in report.worst if s.drawing),
    ):
        root = ElementTree.fromstring(drawn)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for node in root.iter():
            for name, limit in (
                ("x", width),
                ("y", height),
                ("cx", width),
                ("cy", height),
                ("x1", width),
                ("x2", width),
            ):
                if name in node.attrib:
                    assert -0.01 <= float(node.attrib[name]) <= limit + 0.01


@pytest.mark.parametrize(
    "data",
    [
        {"low": [-1.0] * 1000, "high": [2.0] * 1000, "centre": [0.5] * 1000},
        {"low": [0.0], "high": [0.0], "centre": [0.0]},
        {"densities": [[0.0, 0.0]], "ranges": [[1.0, 1.0]], "peaks": [[]]},
        {"densities": [[1.0]], "ranges": [[0.0, 1.0]], "peaks": [[0.5]]},
        {"factors": [1.0]},
        {"factors": [1e-30, 1e30]},
    ],
)
def test_numbers_behind_a_change_are_drawn(data: dict[str, object]) -> None:
    drawn = plots.change(data)
    ElementTree.fromstring(drawn)
    assert "nan" not in drawn
    assert len(drawn) < 6000


def test_unknown_numbers_are_not_drawn() -> None:
    assert plots.change({"votes": [1]}) == plots.change({}) == plots.change({"factors": []}) == ""


def test_infinite_layers_stay_in_the_box(degenerate: Report) -> None:
    drawn = plots.depth(degenerate.layers)
    assert "inf" not in drawn
    assert drawn.count('<g class="mark') == 2
    assert "exact" in drawn
    assert "broken" in drawn


@pytest.mark.parametrize("levels", [(), (0.5,), (0.5, 0.5), tuple(range(256))])
def test_histogram_of_one_bin(levels: tuple[float, ...]) -> None:
    ElementTree.fromstring(plots.histogram(Drawing((5,), (0.0, 1.0), levels), label="x"))


def test_what_the_grid_cuts_off_is_shaded() -> None:
    cut = plots.histogram(Drawing((1, 1, 1), (-3.0, -1.0, 1.0, 3.0), (-1.0, 0.0, 1.0)), label="x")
    assert cut.count('class="cut"') == 2
    assert 'class="cut"' not in plots.histogram(Drawing((1,), (-1.0, 1.0), (-1.0, 1.0)), label="x")


def test_no_values_no_picture() -> None:
    assert plots.histogram(Drawing((), (), ()), label="x") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 60), (-3e38, 3e38), (1e-30, 2e-30), (-0.3, 0.1), (5, 5)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = plots.ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * (high - low) <= t <= high + 1e-6 * (high - low) for t in found)
