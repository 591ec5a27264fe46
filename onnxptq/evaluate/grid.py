"""Tables of methods and bit widths: Markdown, CSV and a drawing from a folder of finished cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxptq.errors import InputError
from onnxptq.evaluate.records import write_record
from onnxptq.files import finite, read_json, reading, require
from onnxptq.report.plots import short, ticks
from onnxptq.report.text import markdown_table

FULL = "FP32"
"""The row of the original model."""


@dataclass(frozen=True)
class Cell:
    """One method at one width on one split."""

    recipe: str
    bits: str
    split: str
    figures: Mapping[str, float]


class Folder:
    """Finished cells on disk, so that an interrupted table can continue."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """``settings`` are common to all cells of a table; a folder made with others is refused."""
        self.path, self._cells = path, path / "cells"
        self._record = path / "settings.json"
        self._settings = json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"
        if self._record.exists():
            old = require(read_json(self._record), dict, str(self._record))
            new = json.loads(self._settings)
            for name in sorted({*old, *new}):
                if old.get(name) != new.get(name):
                    raise InputError(
                        f"{path}: holds a table made with {name} {old.get(name)}, not {new.get(name)}; give another "
                        f"folder"
                    )

    def get(self, recipe: str, bits: str, split: str) -> Cell | None:
        """A finished cell."""
        file = self._file(recipe, bits, split)
        if not file.exists():
            return None
        with reading(file, "is no cell of a table; remove it"):
            cell = Cell(**read_json(file))
            return replace(cell, figures={str(name): finite(value) for name, value in cell.figures.items()})

    def put(self, cell: Cell) -> None:
        """Write a cell, whole or not at all."""
        self._cells.mkdir(parents=True, exist_ok=True)
        if not self._record.exists():
            self._record.write_text(self._settings, encoding="utf-8")
        write_record(self._file(cell.recipe, cell.bits, cell.split), asdict(cell))

    def _file(self, recipe: str, bits: str, split: str) -> Path:
        name = Path(recipe).name.removesuffix(".toml")
        return self._cells / f"{name}-{bits}-{split}.json".replace("/", "_")


def columns(cells: Iterable[Cell], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits and figures of a table, in order."""
    cells = list(cells)
    splits = list(dict.fromkeys(cell.split for cell in cells))
    return splits, [name for name in wanted if any(name in cell.figures for cell in cells)]


def markdown(cells: Sequence[Cell], wanted: Sequence[str]) -> str:
    """One block of rows a width, a column a split and figure; the best of each block and column in bold."""
    splits, names = columns(cells, wanted)
    header = ["bits", "method", *(f"{split} {name}" for split in splits for name in names)]
    lines: list[list[str]] = []
    for bits in dict.fromkeys(cell.bits for cell in cells):
        block = [cell for cell in cells if cell.bits == bits]
        best = {
            (s, n): max((c.figures.get(n, 0.0) for c in block if c.split == s), default=0.0)
            for s in splits
            for n in names
        }
        recipes = list(dict.fromkeys(cell.recipe for cell in block))
        for recipe in recipes:
            held = {cell.split: cell.figures for cell in block if cell.recipe == recipe}
            row = [bits, recipe]
            for split in splits:
                for name in names:
                    value = held.get(split, {}).get(name)
                    text = "" if value is None else f"{value:.2f}"
                    row.append(
                        f"**{text}**" if value is not None and len(recipes) > 1 and value == best[split, name] else text
                    )
            lines.append(row)
    return markdown_table(header, lines, right=range(2, len(header))) + "\n"


def comma_separated(cells: Sequence[Cell]) -> str:
    """Every figure of every cell."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.figures))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["recipe", "bits", "split", *names])
    for cell in cells:
        writer.writerow(
            [
                cell.recipe,
                cell.bits,
                cell.split,
                *(f"{cell.figures[n]:.4f}" if n in cell.figures else "" for n in names),
            ]
        )
    return out.getvalue()


_COLORS = ("#1d6fb8", "#d1495b", "#2a9d5c", "#e08b1c", "#7b4fb5", "#0f8b8d", "#b0427a", "#6b7b1e")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 360, 56, 40, 34, 130


def drawing(cells: Sequence[Cell], name: str, split: str) -> str:
    """One figure against the bit width, a line a method, as an SVG file."""
    chosen = [cell for cell in cells if cell.split == split and name in cell.figures]
    full = next((cell.figures[name] for cell in chosen if cell.recipe == FULL), None)
    rows = [cell for cell in chosen if cell.recipe != FULL]
    widths, recipes = list(dict.fromkeys(cell.bits for cell in rows)), list(dict.fromkeys(cell.recipe for cell in rows))
    values = [cell.figures[name] for cell in rows] + ([] if full is None else [full])
    low, high = _span(values)

    def x(bits: str) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (widths.index(bits) + 0.5) / max(len(widths), 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{name} on {split}</text>',
    ]
    for value in ticks(low, high, 6):
        parts.append(f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    parts += [f'<text x="{x(b):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{b}</text>' for b in widths]
    if full is not None:
        parts.append(f'<path d="M{_LEFT} {y(full):.1f}H{_WIDTH - _RIGHT}" stroke="#444" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{y(full) + 4:.1f}" fill="#444">{FULL}</text>')
    for k, recipe in enumerate(recipes):
        color, held = _COLORS[k % len(_COLORS)], [cell for cell in rows if cell.recipe == recipe]
        points = " ".join(f"{x(cell.bits):.1f},{y(cell.figures[name]):.1f}" for cell in held)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(c.bits):.1f}" cy="{y(c.figures[name]):.1f}" r="3.5" fill="{color}"/>' for c in held]
        below = _HEIGHT - _BOTTOM - 18 * (len(recipes) - 1 - k)
        parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{below}" fill="{color}">{recipe}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits around some values, never of zero height."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(0.05 * (high - low), 0.5)
    return low - room, high + room
