from __future__ import annotations

import re
from html.parser import HTMLParser

from onnxptq.report import html
from onnxptq.report.data import Report

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
