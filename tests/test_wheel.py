"""Packed files: the wheel from the tree equals the one from the source distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def wheel(source: Path, out: Path) -> set[str]:
    """Names in the wheel built from a folder."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = next(out.glob("*.whl"))
    with zipfile.ZipFile(built) as held:
        return {name for name in held.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_wheel_and_sdist(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache", "node_modules")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    direct = wheel(tree, tmp_path / "direct")
    code = (
        f"import os; os.chdir({str(tree)!r}); from scikit_build_core.build import build_sdist; "
        f"print(build_sdist({str(tmp_path)!r}))"
    )
    name = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]
    with tarfile.open(tmp_path / name) as held:
        members = held.getnames()
        held.extractall(tmp_path / "sdist", filter="data")
    assert not any("/onnxptq/ops" in m or "/onnxptq/models" in m or "/onnxptq/calibrators" in m for m in members)
    assert wheel(tmp_path / "sdist" / name.removesuffix(".tar.gz"), tmp_path / "indirect") == direct
    for needed in (
        "onnxptq/ops/uniform.py",
        "onnxptq/calibrators/omse.py",
        "onnxptq/models/sam/build.py",
        "onnxptq/recipes/auto.toml",
        "onnxptq/data/zoo/sam-mini-encoder.onnx",
        "onnxptq/report/templates/page.css",
        "onnxptq/report/templates/report.html.j2",
        "onnxptq/report/templates/web_worker.js",
        "onnxptq/py.typed",
    ):
        assert needed in direct
    assert any(n.startswith("onnxptq/ops/_lib/") for n in direct)
    assert not any(n.startswith(("ops/", "models/", "calibrators/", "tests/", "onnxptq/ops/native/")) for n in direct)
