from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from onnxptq.cli import doctor
from onnxptq.ops import library
from tests.cli.conftest import Run


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of packages, to be changed by the test."""
    versions = {"numpy": "2.0.1", "torch": "2.13.0+cpu"}
    lines = [
        "numpy>=1.26",
        'torch>=2.4; extra == "learn"',
        "torch>=2.4 ; extra == 'models'",
        'safetensors; extra == "models"',
    ]

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(metadata, "version", version)
    return versions


def checks(run: Run) -> tuple[int, dict[str, doctor.Check]]:
    done = run("doctor", "--json")
    return done.code, {entry["name"]: doctor.Check(**entry) for entry in json.loads(done.out)["checks"]}


def test_all_is_well(run: Run, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "path", lambda: None)
    monkeypatch.setenv("ONNXPTQ_PURE", "1")
    code, found = checks(run)
    assert code == 0
    assert not any(check.problem for check in found.values())
    assert found["torch"] == doctor.Check("extras", "torch", "2.13.0+cpu")
    assert found["safetensors"] == doctor.Check("extras", "safetensors", "missing", 'pip install "onnxptq[models]"')
    assert run("doctor").out.endswith("nothing to mend\n")


@pytest.mark.parametrize("version", [None, "1.25.9"])
def test_a_dependency_is_missing_or_old(
    run: Run, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.setenv("ONNXPTQ_PURE", "1")
    del installed["numpy"]
    if version:
        installed["numpy"] = version
    code, found = checks(run)
    assert code == 2
    assert [name for name, check in found.items() if check.problem] == ["numpy"]
    assert 'pip install "numpy>=1.26"' in found["numpy"].advice


def test_no_library(run: Run, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "path", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv("ONNXPTQ_PURE", raising=False)
    done = run("doctor")
    assert done.code == 2
    assert done.err == f"onnxptq: native library missing: {doctor.INSTALL_COMPILER}\n"
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert run("doctor").code == 0


def test_a_library_that_does_not_load(
    run: Run, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "libonnxptq_ops.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv("ONNXPTQ_LIBRARY", str(broken))
    done = run("doctor")
    assert done.code == 2
    assert "does not load" in done.err
    monkeypatch.setenv("ONNXPTQ_LIBRARY", str(tmp_path / "none.so"))
    done = run("doctor")
    assert done.code == 2
    assert "no such file" in done.err


@pytest.mark.skipif(library.path() is None, reason="no native library")
def test_the_library_here(run: Run, installed: dict[str, str]) -> None:
    code, found = checks(run)
    assert code == 0
    assert str(library.isa()) in found["instruction set"].found


def test_an_old_extra_is_no_problem(run: Run, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPTQ_PURE", "1")
    installed["torch"] = "2.3.1"
    code, found = checks(run)
    assert code == 0
    assert found["torch"].advice == 'too old; pip install "onnxptq[learn]"'
