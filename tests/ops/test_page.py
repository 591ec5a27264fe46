"""The op reference in the documentation matches the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxptq.ops import schemes, specs
from onnxptq.ops.page import reference_page

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"


def test_page_names_every_op_and_scheme() -> None:
    page = reference_page()
    for name in (*specs(), *schemes()):
        assert f"### `{name}`\n" in page


def test_page_is_fresh() -> None:
    if not PAGE.parent.is_dir():
        pytest.skip("no docs here: not a checkout")
    assert PAGE.read_text() == reference_page(), "run: python -m onnxptq.ops.page > docs/ops.md"
