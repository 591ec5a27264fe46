"""The layout of packages: links for type checkers, and packages that refuse their bare names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.imports import Modules

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
    """No import circle hides behind the order in which tests import."""
    modules = Modules.of(ROOT / "onnxptq")
    assert len(modules) > 250
    failed = {name: why for name in modules if (why := modules.importing(name)) is not None}
    assert not failed


@pytest.mark.parametrize("name", ["onnxptq.recipe", "onnxptq.ops", "onnxptq.calibrators", "onnxptq.lower.qdq"])
def test_a_module_imports_alone(name: str) -> None:
    """Python agrees with the test above."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize(
    ("files", "failing"),
    [
        ({"__init__": "", "a": "from p.b import y\nx = 1", "b": "from p.a import x\ny = 2"}, {"p.a", "p.b"}),
        ({"__init__": "", "a": "x = 1\nfrom p.b import y", "b": "from p.a import x\ny = 2"}, {"p.b"}),
        ({"__init__": "from p.a import x", "a": "x = 1", "b": "from p import x"}, set()),
        ({"__init__": "from p.a import x\ny = 1", "a": "from p import y\nx = 2"}, {"p", "p.a"}),
        ({"__init__": "", "a": "def f():\n  from p.b import y\nx = 1", "b": "from p.a import x\ny = 2"}, set()),
        ({"__init__": "", "a": "from p.b import nothing", "b": "y = 2"}, {"p.a"}),
    ],
)
def test_imports_are_followed_as_python_does(files: dict[str, str], failing: set[str], tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name, text in files.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    modules = Modules.of(tmp_path / "p")
    assert {name for name in modules if modules.importing(name) is not None} == failing
    for name in modules:
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {name}"
        done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=False)
        assert (done.returncode != 0) == (name in failing)


def test_modules_are_short() -> None:
    modules = [path for folder in ("onnxptq", "benchmarks", *LINKED) for path in (ROOT / folder).rglob("*.py")]
    long = {path.relative_to(ROOT).as_posix() for path in modules if len(path.read_text().splitlines()) > 250}
    assert long == set()


def test_tests_mirror_the_modules() -> None:
    """a/b.py is tested by tests/a/test_b.py, or by the file that tests/mirror.toml names."""
    covered = tomllib.loads((ROOT / "tests" / "mirror.toml").read_text())
    modules = [
        path.relative_to(ROOT).as_posix()
        for folder in ("onnxptq", *LINKED)
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents) and not path.name.startswith("__")
    ]
    patterns = [pattern for listed in covered.values() for pattern in listed]
    tested = [name for name in modules if _mirror(name).is_file() or any(fnmatch(name, p) for p in patterns)]
    assert sorted(set(modules) - set(tested)) == []
    assert [file for file in covered if not (ROOT / file).is_file()] == []
    assert [p for p in patterns if not any(fnmatch(name, p) for name in modules)] == []
    assert [p for p in patterns if p in modules and _mirror(p).is_file()] == []


def _mirror(module: str) -> Path:
    path = Path(module.removeprefix("onnxptq/"))
    return ROOT / "tests" / path.parent / f"test_{path.name}"


def test_the_library_is_there_where_it_must_be() -> None:
    """The build falls back to a pure wheel without a compiler; where the checks run that would hide a broken build."""
    if os.environ.get("ONNXPTQ_REQUIRE_NATIVE") != "1":
        pytest.skip("ONNXPTQ_REQUIRE_NATIVE is not set")
    assert importlib.import_module("onnxptq").library_path() is not None
