"""Where words go, and checks of the places files go."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from onnxptq.errors import InputError


class Output:
    """With ``--json``, stdout carries exactly one object and everything for people goes to stderr."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    @property
    def stream(self) -> TextIO:
        """Where progress goes: a terminal if there is one, else with the words for people, so that stderr holds errors only."""
        return sys.stderr if self.json or sys.stderr.isatty() else sys.stdout

    def say(self, text: str = "") -> None:
        """A line or a block for people."""
        print(text, file=sys.stderr if self.json else sys.stdout)

    def warn(self, text: str) -> None:
        """A warning, always on stderr."""
        print("onnxptq: warning: " + " ".join(text.split()), file=sys.stderr)

    def emit(self, data: Mapping[str, Any]) -> None:
        """The one object; nothing without ``--json``."""
        if self.json:
            print(json.dumps(data, allow_nan=False))


def writable(path: Path, option: str, *, source: Path | None = None) -> Path:
    """``path``, if a file can be written there; an InputError before any work is done if not."""
    if path.is_dir():
        raise InputError(f"{option} {path}: is a directory; give the name of a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path}: exists and is not a file")
    if source is not None and source.exists() and path.exists() and path.samefile(source):
        raise InputError(f"{option} {path}: is the model itself; choose another name")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; create it first")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot write in {path.parent}: {error.strerror}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    from onnxptq.graph.save import write_atomic

    write_atomic(path, text.encode())
