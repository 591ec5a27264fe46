"""Pages from the templates: one self-contained file each, nothing fetched, readable in light and dark."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnxptq.report import text

_ENVIRONMENT = Environment(
    loader=PackageLoader("onnxptq.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """The page that a template makes of ``values``. Text is escaped; Markup (drawings) is inserted unchanged."""
    return _ENVIRONMENT.get_template(template).render({"version": "", **values})


def source(name: str) -> Markup:
    """A style sheet or script that becomes part of the page."""
    return Markup(resources.files("onnxptq.report").joinpath("templates", name).read_text("utf-8"))


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")


_ENVIRONMENT.globals["source"] = source
_ENVIRONMENT.filters |= {
    "count": text.count,
    "decibels": text.decibels,
    "in_decibels": text.in_decibels,
    "words": words,
}
