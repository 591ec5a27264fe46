"""Small pieces of HTML for notebooks: tiles of key numbers, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_TILE = "border:1px solid #8886;border-radius:6px;padding:.5em .9em;min-width:7em"


def tiles(entries: Iterable[tuple[str, str]], title: str = "") -> str:
    """Key numbers, each with a line about it."""
    held = "".join(
        f'<div style="{_TILE}"><div style="font-size:1.4em">{escape(number)}</div><div>{escape(about)}</div></div>'
        for number, about in entries
    )
    return f'{_title(title)}<div style="display:flex;flex-wrap:wrap;gap:.6em">{held}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """A table under a title."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"{_title(title)}<table><tr>{head}</tr>{body}</table>"


def _title(text: str) -> str:
    return f"<p><b>{escape(text)}</b></p>" if text else ""
