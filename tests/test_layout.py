"""Where things live: the links for type checkers, and packages that say no to their bare names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("calibrators", "models", "ops")


@pytest.mark.parametrize("name", LINKED)
def test_links(name: str) -> None:
    link = ROOT / "onnxptq" / name
    if link.is_file() and not link.is_symlink():
        pytest.skip("a checkout without links: `git config core.symlinks true && git checkout .`")
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("name", LINKED)
def test_the_bare_name_is_refused(name: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"this folder is imported as onnxptq.{name}" in done.stderr


def test_no_module_is_a_drawer() -> None:
    """A helper lives with its only user, or gets a name that says what it is."""
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    found = [p for folder in ("onnxptq", *LINKED) for p in (ROOT / folder).rglob("*.py") if p.name in drawers]
    assert not found


def test_every_module_imports_alone() -> None:
    """No import cycle hides behind the order in which tests import."""
    names = [
        "onnxptq.recipe",
        "onnxptq.plan",
        "onnxptq.structure",
        "onnxptq.ops",
        "onnxptq.calibrators",
        "onnxptq.report.data",
        "onnxptq.lower.qdq",
    ]
    for name in names:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_the_library_is_there_where_it_must_be() -> None:
    """The build falls back to a pure wheel without a compiler; where the checks run that would hide a broken build."""
    if os.environ.get("ONNXPTQ_REQUIRE_NATIVE") != "1":
        pytest.skip("ONNXPTQ_REQUIRE_NATIVE is not set")
    assert importlib.import_module("onnxptq").library_path() is not None
