"""docs/figures.md: the pages and the commands that it names exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from onnxptq.cli import COMMANDS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "figures.md").read_text()
LINES = [line for line in TEXT.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES[2:]]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_imports(name: str) -> None:
    """mypy does not follow these files."""
    importlib.import_module(f"benchmarks.{name}")


def test_modules_and_commands_exist() -> None:
    named = re.findall(r"python -m ([\w.]+)", TEXT)
    assert "benchmarks.peers" in named
    for module in named:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for command in re.findall(r"`onnxptq (\w+)", TEXT):
        assert command in COMMANDS


def test_sections_exist() -> None:
    assert len(ROWS) >= 20
    for row in ROWS:
        for place in row[1].split("; "):
            page, _, section = place.partition(", ")
            named = (f"{page}.md", f"docs/{page}.md", f"docs/{page}/README.md")
            path = next(path for name in named if (path := ROOT / name).exists())
            assert not section or f"## {section}\n" in path.read_text(), place
