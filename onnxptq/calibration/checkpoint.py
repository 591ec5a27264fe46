"""Checkpoint: statistics of the walks so far, in a folder beside the output, so that a killed run can resume."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq import machine
from onnxptq.calibration.sources.source import digest_of
from onnxptq.errors import InputError, one_line
from onnxptq.files import Archive, read_json, read_text

if sys.platform != "win32":
    import fcntl

Arrays = dict[str, NDArray[Any]]
_MANIFEST = "run.json"
_KIND = {"kind": "onnxptq checkpoint", "format": 1}
_NAMES = re.compile(r"(run\.json|walk-\d{3,}\.npz)(\.tmp)?")


@dataclass(frozen=True)
class State:
    """The number of samples each statistic of a walk has seen, and its content."""

    seen: tuple[int, ...]
    arrays: tuple[Arrays, ...]


class Checkpoint:
    """A folder with one file per walk, each replaced atomically; ``identity`` identifies the run.

    With ``resume`` it continues an interrupted run of the same identity; otherwise it starts empty. Damaged files are
    computed again, with a note in ``warnings``.
    """

    def __init__(
        self, folder: str | Path, identity: Mapping[str, str], *, resume: bool = False, interval: float = 20.0
    ) -> None:
        self.folder = Path(folder)
        self.resumed = False
        self.warnings: list[str] = []
        self._interval = interval
        self._saved, self._cost = time.monotonic(), 0.0
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            before = self._before() if resume else None
            if before is None:
                empty(self.folder)
                self._write(_MANIFEST, json.dumps(_KIND | {"identity": dict(identity)}, indent=1).encode())
                return
            for part in self.folder.glob("*.tmp"):
                part.unlink()
        changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
        if changed:
            raise InputError(
                f"{self.folder}: {', '.join(changed)} changed since the interrupted run; restore what changed or run "
                f"without --resume"
            )
        self.resumed = True

    def _before(self) -> dict[str, Any] | None:
        """The identity of the run that left the folder; None if there is none or it cannot be read."""
        if not (self.folder / _MANIFEST).exists() or not _ours(self.folder):
            return None
        try:
            identity = read_json(self.folder / _MANIFEST)["identity"]
            return dict(identity)
        except (InputError, KeyError, TypeError, ValueError):
            self.warnings.append(f"{self.folder / _MANIFEST}: damaged; the run starts anew")
            return None

    def load(self, walk: int, signature: str) -> State | None:
        """The saved state of a walk; None if it was never saved or is damaged."""
        path = self._file(walk)
        if not self.resumed or not path.is_file():
            return None
        try:
            held = Archive(path, most=machine.available()).arrays()
            if str(held.pop("digest", "")) != digest_of([held]):
                raise InputError("its digest does not fit")
            if str(held.pop("signature")) != signature:
                raise InputError("made by another version or plan")
            seen = tuple(int(n) for n in held.pop("seen"))
            arrays: tuple[Arrays, ...] = tuple({} for _ in seen)
            for key, array in held.items():
                index, _, name = key.partition("/")
                arrays[int(index)][name] = array
        except (InputError, KeyError, ValueError, IndexError) as error:
            self.warnings.append(f"{path}: damaged ({one_line(error)}); this walk starts anew")
            return None
        return State(seen, arrays)

    def due(self) -> bool:
        """Whether the interval has passed since the last save, and saving takes less than a twentieth of the time.

        With interval 0: always.
        """
        return not self._interval or time.monotonic() - self._saved >= max(self._interval, 20 * self._cost)

    def save(self, walk: int, signature: str, seen: Sequence[int], arrays: Sequence[Arrays]) -> None:
        """Save the state of a walk."""
        start = time.monotonic()
        held = {f"{index}/{name}": np.asarray(array) for index, one in enumerate(arrays) for name, array in one.items()}
        held |= {"signature": np.array(signature), "seen": np.array(seen, np.int64)}
        buffer = io.BytesIO()
        np.savez(buffer, digest=np.array(digest_of([held])), **held)  # type: ignore[arg-type]
        with self._writing():
            self._write(self._file(walk).name, buffer.getbuffer())
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _file(self, walk: int) -> Path:
        return self.folder / f"walk-{walk:03d}.npz"

    def _write(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file or nothing, even if the machine stops in between."""
        temporary = self.folder / f"{name}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write the checkpoint: {error.strerror or error}") from error

    def remove(self) -> None:
        """Remove the folder after a complete run."""
        discard(self.folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes; it is created, and removed at the end if empty."""
    if sys.platform == "win32":
        yield
    else:
        handle = _lock(folder)
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
            os.close(handle)


def _lock(folder: Path) -> int:
    """A handle of the folder that holds its lock."""
    while True:
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise InputError(f"{folder}: needed for the checkpoint, but {error.strerror or error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{folder}: another run writes to this output; wait for it or choose another") from None
        except OSError:
            return handle  # a file system without locks
        if folder.exists() and os.path.samestat(os.fstat(handle), os.stat(folder)):
            return handle
        os.close(handle)  # the run that held it removed it when it ended


def holds(folder: Path) -> bool:
    """Whether the folder holds a state to resume from."""
    return any(folder.glob("**/walk-*.npz"))


def discard(folder: Path) -> None:
    """Remove a checkpoint; other folders are left alone."""
    with suppress(InputError, OSError):
        empty(folder)
        folder.rmdir()


def empty(folder: Path) -> None:
    """Remove all checkpoints in a folder and its subfolders; an InputError if it holds other files."""
    if not _ours(folder):
        raise InputError(f"{folder}: needed for the checkpoint, but holds something else; move it away")
    for entry in folder.iterdir():
        if entry.is_dir():
            empty(entry)
            entry.rmdir()
        else:
            entry.unlink()


def _ours(folder: Path) -> bool:
    """Whether a folder holds only a checkpoint, damaged or not."""
    entries = list(folder.iterdir())
    known = all(
        not entry.is_symlink() and (_ours(entry) if entry.is_dir() else bool(_NAMES.fullmatch(entry.name)))
        for entry in entries
    )
    manifest = folder / _MANIFEST
    if not known or manifest not in entries:
        return known
    try:
        return _KIND.items() <= dict(json.loads(read_text(manifest))).items()
    except (InputError, OSError, ValueError, TypeError, RecursionError):
        return any(entry.suffix == ".npz" for entry in entries)
