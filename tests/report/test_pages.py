from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from onnxptq.report.pages import render

DEMO = {
    "title": "<title>",
    "model": "SAM",
    "recipe": "<b>",
    "about": "a & b",
    "header": ["model", "size"],
    "rows": [["<i>", "1 MB"]],
    "files": [],
    "prompts": "one each",
    "pictures": 2,
}


def test_text_is_escaped_and_drawings_are_not() -> None:
    page = render("demo.html.j2", **DEMO)
    assert "<title>&lt;title&gt;</title>" in page
    assert "recipe &lt;b&gt;." in page
    assert '<td>&lt;i&gt;</td><td class="number">1 MB</td>' in page
    assert '<p class="soft">a &amp; b</p>' in page
    assert "<svg/>" in render("demo.html.j2", **{**DEMO, "about": Markup("<svg/>")})


def test_the_style_is_in_the_page() -> None:
    page = render("demo.html.j2", **DEMO)
    assert "--soft" in page
    assert page.count("masks/000") == 2


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="about"):
        render("demo.html.j2", **{key: value for key, value in DEMO.items() if key != "about"})
