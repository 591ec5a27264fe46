"""Checkpoint: what the walks have found so far, in a folder beside the output, so that a killed run can go on."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError

Arrays = dict[str, NDArray[Any]]
_MANIFEST = "run.json"


@dataclass(frozen=True)
class State:
    """How many samples each statistic of a walk has seen, and what it holds."""

    seen: tuple[int, ...]
    arrays: tuple[Arrays, ...]


class Checkpoint:
    """A folder with one file a walk, each replaced as a whole; ``identity`` says what makes two runs the same.

    Opened with ``resume`` it gives back what an interrupted run of the same identity left; otherwise it starts empty.
    """

    def __init__(
        self, folder: str | Path, identity: Mapping[str, str], *, resume: bool = False, interval: float = 20.0
    ) -> None:
        self.folder = Path(folder)
        self.resumed = False
        self._interval = interval
        self._saved, self._cost = time.monotonic(), 0.0
        try:
            if resume and (self.folder / _MANIFEST).is_file():
                self._check(identity)
                self.resumed = True
            else:
                self._clear()
                self._write(_MANIFEST, json.dumps(dict(identity), indent=1).encode())
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write the checkpoint: {error.strerror or error}") from error

    def _clear(self) -> None:
        """An empty folder; one that is not ours is left alone."""
        if self.folder.exists():
            if not self.folder.is_dir() or (any(self.folder.iterdir()) and not (self.folder / _MANIFEST).is_file()):
                raise InputError(f"{self.folder}: needed for the checkpoint, but holds something else; move it away")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def _check(self, identity: Mapping[str, str]) -> None:
        try:
            before = json.loads((self.folder / _MANIFEST).read_text())
            changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{self.folder}: not a checkpoint of onnxptq ({error}); remove it or run without --resume"
            ) from error
        if changed:
            what = ", ".join(changed)
            raise InputError(
                f"{self.folder}: {what} changed since the interrupted run; restore what changed or run without --resume"
            )

    def load(self, walk: int, signature: str) -> State | None:
        """What is known of a walk; None where it never got to its first checkpoint."""
        path = self.folder / f"walk-{walk:03d}.npz"
        if not self.resumed or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {key: file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: damaged checkpoint ({error}); run without --resume") from error
        if str(held.pop("signature")) != signature:
            raise InputError(f"{self.folder}: made by another version or plan; run without --resume")
        seen = tuple(int(n) for n in held.pop("seen"))
        arrays: tuple[Arrays, ...] = tuple({} for _ in seen)
        for key, array in held.items():
            index, _, name = key.partition("/")
            arrays[int(index)][name] = array
        return State(seen, arrays)

    def due(self) -> bool:
        """Whether the interval has passed since the last save, and saving takes less than a twentieth of the time.
        Interval 0: always."""
        return not self._interval or time.monotonic() - self._saved >= max(self._interval, 20 * self._cost)

    def save(self, walk: int, signature: str, seen: Sequence[int], arrays: Sequence[Arrays]) -> None:
        """Replace what is known of a walk."""
        start = time.monotonic()
        buffer = io.BytesIO()
        flat = {f"{index}/{name}": array for index, held in enumerate(arrays) for name, array in held.items()}
        np.savez(buffer, signature=np.array(signature), seen=np.array(seen, np.int64), **flat)  # type: ignore[arg-type]
        try:
            self._write(f"walk-{walk:03d}.npz", buffer.getbuffer())
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write the checkpoint: {error.strerror or error}") from error
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _write(self, name: str, data: bytes | memoryview) -> None:
        """The whole file or nothing, also when the machine stops in between."""
        temporary = self.folder / f"{name}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)

    def remove(self) -> None:
        """Remove the folder: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
