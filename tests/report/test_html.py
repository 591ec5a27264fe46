from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from onnxptq.report import html, plots
from onnxptq.report.data import Drawing, Report

VOID = {"meta", "input", "circle", "rect", "path", "line", "polyline"}


class Strict(HTMLParser):
    """Fails on tags that are not closed in order, and remembers what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def read(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_page_is_well_formed_and_fetches_nothing(report: Report) -> None:
    page = html.page(report)
    parser = read(page)
    assert parser.fetched == []
    assert not re.search(r"url\(|@import|https?://|<link|<iframe", page)
    legend, worst, changes = 4, 10, 12 + 2
    assert parser.tags.count("svg") == 1 + legend + worst + changes


def test_page_holds_the_key_numbers_and_everything_else(report: Report) -> None:
    words = read(html.page(report)).words
    for part in (
        "4.90×",
        "31.4 dB",
        "98.7%",
        "w6a6",
        "84",
        "4.3 min",
        "matches no site",
        "relative position was left in float",
        "imagenet",
        "Selection",
    ):
        assert part in words
    for site in report.sites:
        assert site.key in words
    for change in report.changes:
        assert change.what in words
    assert "Signal to difference: masks 131.2 dB, scores exact." in words


def test_least_report(degenerate: Report) -> None:
    page = html.page(degenerate)
    words = read(page).words
    assert "<b>:weight" in words
    assert "<b>:weight" not in page
    assert "nan" not in words.lower().replace("nan or inf", "")


def test_report_without_anything_measured() -> None:
    from onnxptq.report.data import Calibration, Sizes

    bare = Report("m", "r", "w4a32", "native", Sizes(10, 20), Calibration("s", 1), (), {})
    words = read(html.page(bare)).words
    assert "2.00×" in words
    assert "larger" in words


def test_script_finds_what_it_asks_for(report: Report) -> None:
    page = html.page(report)
    script = page[page.index("<script>") :]
    for name in re.findall(r'getElementById\("(\w+)"\)', script):
        assert f'id="{name}"' in page


def test_steps_down_are_named(report: Report) -> None:
    assert "Largest steps down" not in html.page(report)
    import dataclasses

    layers = list(report.layers)
    fallen = dataclasses.replace(layers[5].metrics, sqnr=20.0)
    layers[5] = dataclasses.replace(layers[5], metrics=fallen)
    assert f"<code>{layers[5].name}</code> (-37.5 dB)" in html.page(dataclasses.replace(report, layers=tuple(layers)))


class TestPlots:
    def test_svg_is_xml_and_inside_its_box(self, report: Report) -> None:
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
    def test_numbers_behind_a_change_are_drawn(self, data: dict[str, object]) -> None:
        drawn = plots.change(data)
        ElementTree.fromstring(drawn)
        assert "nan" not in drawn
        assert len(drawn) < 6000

    def test_unknown_numbers_are_not_drawn(self) -> None:
        assert plots.change({"votes": [1]}) == plots.change({}) == plots.change({"factors": []}) == ""

    def test_infinite_layers_stay_in_the_box(self, degenerate: Report) -> None:
        drawn = plots.depth(degenerate.layers)
        assert "inf" not in drawn
        assert drawn.count('<g class="mark') == 2
        assert "exact" in drawn
        assert "broken" in drawn

    @pytest.mark.parametrize("levels", [(), (0.5,), (0.5, 0.5), tuple(range(256))])
    def test_histogram_of_one_bin(self, levels: tuple[float, ...]) -> None:
        ElementTree.fromstring(plots.histogram(Drawing((5,), (0.0, 1.0), levels), label="x"))

    def test_what_the_grid_cuts_off_is_shaded(self) -> None:
        cut = plots.histogram(Drawing((1, 1, 1), (-3.0, -1.0, 1.0, 3.0), (-1.0, 0.0, 1.0)), label="x")
        assert cut.count('class="cut"') == 2
        assert 'class="cut"' not in plots.histogram(Drawing((1,), (-1.0, 1.0), (-1.0, 1.0)), label="x")

    def test_no_values_no_picture(self) -> None:
        assert plots.histogram(Drawing((), (), ()), label="x") == ""

    @pytest.mark.parametrize(("low", "high"), [(0, 60), (-3e38, 3e38), (1e-30, 2e-30), (-0.3, 0.1), (5, 5)])
    def test_ticks_are_few_round_and_inside(self, low: float, high: float) -> None:
        found = plots.ticks(low, high)
        assert 1 <= len(found) <= 7
        assert all(low - 1e-6 * (high - low) <= t <= high + 1e-6 * (high - low) for t in found)
