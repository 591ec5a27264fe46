"""Read a ModelProto from a path, bytes or a message; bad input is an error of one line."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxptq.errors import ArtifactError, InputError, one_line
from onnxptq.graph.save import LIMIT

Source = str | Path | bytes | onnx.ModelProto


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn exceptions of the libraries that read an untrusted model into one line about the model."""
    try:
        yield
    except (InputError, ArtifactError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"{name}: the model cannot be read ({what}); check it with onnx.checker and report it if it is valid"
        ) from error


def parse(source: Source) -> tuple[onnx.ModelProto, Path | None, str]:
    """The message, the path of its file if there is one, and its name for error messages."""
    if isinstance(source, onnx.ModelProto):
        own = onnx.ModelProto()
        own.CopyFrom(source)  # tensors release their bytes while they are read
        return own, None, "model"
    if isinstance(source, bytes):
        return _decode(source, "model"), None, "model"
    path = Path(source)
    try:
        return _decode(_read(path), str(path)), path, str(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{one_line(ValueError(path))}: cannot be read: {reason}") from error


def whole(path: str | Path) -> onnx.ModelProto:
    """A file's message with the data that lies beside it."""
    proto, _, name = parse(path)
    with readable(name):
        onnx.load_external_data_for_model(proto, str(Path(path).parent))
    return proto


def _read(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"give the file, e.g. {path / inside[0]}" if inside else "give an .onnx file"
        raise InputError(f"{path}: is a folder; {hint}")
    if not path.exists():
        names = [p.name for p in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, 1)
        raise InputError(f"{path}: no such file" + (f"; did you mean {near[0]}?" if near else ""))
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is a device or a pipe; give an .onnx file")
    if found.st_size > 2**31:
        raise InputError(
            f"{path}: has {found.st_size} bytes, more than the {LIMIT} of one message; export the weights to an "
            f"external file"
        )
    return path.read_bytes()


def _decode(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise InputError(f"{name}: is empty; export the model again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        kind = (
            "a text file, not an ONNX model"
            if _is_text(data)
            else "not an ONNX model, or cut off; export or download it again"
        )
        raise InputError(f"{name}: {kind}") from None
    return proto


def _is_text(data: bytes) -> bool:
    head = data[:4096]
    return b"\0" not in head and sum(b < 9 or 13 < b < 32 for b in head) == 0
