"""The build backend: the wheel by compiler and environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
pytest.importorskip("scikit_build_core")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in an environment that chooses nothing."""
    spec = importlib.util.spec_from_file_location("backend", ROOT / "ops" / "native" / "backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in (*module.NAMED, "ONNXPTQ_PURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.chdir(ROOT)
    return module


def test_compilers_are_found(backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not backend.has_compiler()
    (tmp_path / "clang++").write_text("#!/bin/sh\n")
    (tmp_path / "clang++").chmod(0o755)
    assert backend.has_compiler()


@pytest.mark.parametrize("name", ["CXX", "CMAKE_TOOLCHAIN_FILE", "CMAKE_ARGS"])
def test_a_compiler_that_was_chosen_must_work(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(name, "anything")
    assert backend._wheel(None) is None


def test_no_build_folder_is_shared(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_compiler", lambda: True)
    assert "build-dir" not in (backend._wheel({}) or {})
    folders = set()
    for prefix in ("one", "other"):
        monkeypatch.setattr(sys, "prefix", prefix)
        folders.add(backend._editable(None)["build-dir"])
    assert len(folders) == 2
    assert backend._editable({"build-dir": "mine"})["build-dir"] == "mine"


def test_pure_needs_neither_cmake_nor_words(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ONNXPTQ_PURE", "1")
    assert backend.get_requires_for_build_wheel() == []
    backend._warn()
    assert capfd.readouterr().err == ""


def test_a_missing_compiler_is_said_past_an_installer_that_hides_output(tmp_path: Path) -> None:
    inner = "import backend; backend.has_compiler = lambda: False; backend._warn()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], capture_output=True)"
    environment = {"PYTHONPATH": str(ROOT / "ops" / "native"), "PATH": os.environ["PATH"]}
    for code in (inner, outer):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stderr.count("no C++ compiler found") == 1 or sys.platform != "linux"


@pytest.mark.slow
def test_a_broken_compiler_ends_the_build(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    environment = {**os.environ, "CXX": "/bin/false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "the native op library did not compile" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.slow
def test_without_a_compiler_a_pure_wheel_is_built(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    named = {"CXX", "CMAKE_TOOLCHAIN_FILE", "CMAKE_ARGS", "SKBUILD_CMAKE_ARGS", "ONNXPTQ_PURE"}
    environment = {key: value for key, value in os.environ.items() if key not in named} | {"PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [wheel.name.split("-", 2)[2] for wheel in tmp_path.glob("*.whl")] == ["py3-none-any.whl"]
    assert sys.platform != "linux" or "no C++ compiler found" in done.stderr
