"""Output of the command line, and checks of the paths it writes to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from onnxptq.errors import InputError, message, printable

if TYPE_CHECKING:
    from onnxptq.calibration.progress import Progress


class Output:
    """With ``--json``, stdout carries exactly one object, and all text for people goes to stderr."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def progress(self) -> Progress:
        """Progress on stderr; in a pipe none beside ``--json``."""
        from onnxptq.calibration.progress import progress_on

        return progress_on(sys.stderr, quiet=self.json and not sys.stderr.isatty())

    def say(self, text: str = "") -> None:
        """Print a line or a block for people."""
        _write(printable(text), sys.stderr if self.json else sys.stdout)

    def warn(self, text: str) -> None:
        """A warning, always on stderr."""
        _write("onnxptq: warning: " + message(text), sys.stderr)

    def emit(self, data: Mapping[str, Any]) -> None:
        """Print the one object; nothing without ``--json``."""
        if self.json:
            _write(json.dumps(data, allow_nan=False), sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    """Print and flush at once, so that a write error appears at once."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output: cannot be written: {error.strerror}") from error


def writable(path: str | Path, *, model: Path | None = None) -> Path:
    """``path``, if a file can be written there, else an InputError before any work. Never the model itself."""
    from onnxptq.graph.save import check_writable

    path = Path(path)
    check_writable(path)
    if model is not None and model.exists() and path.exists() and path.samefile(model):
        raise InputError(f"{path}: is the model itself; choose another name for the output")
    return path


def distinct(outputs: Mapping[str, Path]) -> None:
    """Raise an InputError if two options name one file."""
    places: dict[str, str] = {}
    for option, path in outputs.items():
        place = os.path.realpath(path)
        if place in places and not Path(place).is_char_device():
            raise InputError(f"{option} {path}: is the file of {places[place]} as well; give another name")
        places[place] = option


def spare(outputs: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """Raise an InputError if a file to be written is also read."""
    read = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise InputError(f"{path}: is read by this run, and would be overwritten; give another name for the output")


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """A context in which ``path`` is a folder; folders made for it are removed if the work fails and wrote nothing."""
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for place in made:
                place.rmdir()
        raise
