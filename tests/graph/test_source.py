"""Files that are no model, and exceptions of the libraries that read one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxptq.errors import ArtifactError, InputError
from onnxptq.graph.load import load
from onnxptq.graph.source import readable


@pytest.mark.parametrize(
    "error", [ValueError("a\nb"), RecursionError(), MemoryError(), OverflowError("x"), KeyError(3)]
)
def test_foreign_exceptions_are_one_line(error: Exception) -> None:
    with pytest.raises(InputError, match=type(error).__name__) as caught, readable("m.onnx"):
        raise error
    assert str(caught.value).startswith("m.onnx: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InputError("one line"), ArtifactError("another"), KeyboardInterrupt()])
def test_our_own_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, readable("m.onnx"):
        raise error
    assert caught.value is error


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices on this system")
def test_devices() -> None:
    with pytest.raises(InputError, match="/dev/zero: is a device or a pipe"):
        load("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="is a device or a pipe"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("path", ["a\0b.onnx", "a" * 5000 + ".onnx"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read|no such file") as caught:
        load(path)
    assert len(str(caught.value)) < 500


def test_files_beyond_one_message(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with open(path, "wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(InputError, match="external file"):
        load(path)
