"""Where words go, and checks of the places files go."""

from __future__ import annotations

import json
import sys
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
        """Where progress goes: a terminal if there is one, else with the words for people, so that stderr holds errors
        only."""
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


def writable(path: str | Path, *, model: Path | None = None) -> Path:
    """``path``, if a file can be written there, else an InputError before any work is done. Never over the model
    itself."""
    from onnxptq.graph.save import check_writable

    path = Path(path)
    check_writable(path)
    if model is not None and model.exists() and path.exists() and path.samefile(model):
        raise InputError(f"{path}: is the model itself; choose another name for the output")
    return path
