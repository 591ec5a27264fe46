"""Drawing of sensitivities: a bar for each layer, largest first."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol

ROW, LABEL, BAR, FIGURE = 18, 420, 480, 60


class Bar(Protocol):
    """A layer: its share of the outputs' error, and the parts of its weight and of its activations."""

    @property
    def name(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def weight(self) -> float: ...
    @property
    def rest(self) -> float: ...


def bars(layers: Sequence[Bar]) -> str:
    """One bar a layer as SVG: the part of the weight, then that of the activations."""
    top = max((one.share for one in layers), default=0.0) or 1.0
    width = LABEL + BAR + FIGURE
    parts = [f'<svg viewBox="0 0 {width} {ROW * max(len(layers), 1)}" role="img" aria-label="Error of each layer">']
    for row, one in enumerate(layers):
        y, first = ROW * row, BAR * one.weight / top
        name = escape(one.name if len(one.name) <= 60 else "..." + one.name[-57:])
        title = escape(f"{one.name}: {one.share:.2%}, weight {one.weight:.2%}, activations {one.rest:.2%}")
        parts.append(
            f'<g><title>{title}</title><text class="tick" x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{name}</text>'
            f'<rect class="before" fill="#4a6fa5" x="{LABEL}" y="{y + 3}" width="{first:.1f}" height="{ROW - 6}"/>'
            f'<rect class="after" fill="#c2703d" x="{LABEL + first:.1f}" y="{y + 3}" '
            f'width="{BAR * one.rest / top:.1f}" height="{ROW - 6}"/>'
            f'<text class="tick" x="{LABEL + BAR * one.share / top + 6:.1f}" y="{y + 13}">{one.share:.1%}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def page(layers: Sequence[Bar], bits: str, model: str) -> str:
    """The drawing with a title, as a page of its own."""
    style = "body{font:14px sans-serif;margin:2em;max-width:1000px}text{font:12px sans-serif;fill:currentColor}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sensitivity of {escape(model)}</title>'
        f"<style>{style}</style></head><body><h1>{escape(model)}</h1><p>Share of the outputs' squared error at "
        f"{escape(bits)}, largest first. Blue: weights. Brown: activations.</p>{bars(layers)}</body></html>\n"
    )
