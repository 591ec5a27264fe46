"""Arrays by key, in memory up to a limit and in files beyond it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxptq.running.runner import save_temporary

Array = NDArray[Any]


class Shelf:
    """Arrays by key: up to ``limit`` bytes in memory, the others in a temporary folder."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._held: dict[tuple[Any, ...], Array | Path] = {}
        self.shapes: dict[tuple[Any, ...], tuple[int, ...]] = {}
        """The shapes of all stored arrays."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, key: tuple[Any, ...], array: Array) -> None:
        """Store an array."""
        self.shapes[key] = array.shape
        if self._size + array.nbytes <= self._limit:
            # A copy: a view of a session's output would keep all memory of the session.
            self._held[key] = np.array(array)
            self._size += array.nbytes
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxptq-")
        path = Path(self._folder.name) / f"{self._count}.npy"
        self._count += 1
        save_temporary(path, array)
        self._held[key] = path

    def get(self, key: tuple[Any, ...]) -> Array:
        """Return a stored array."""
        held = self._held[key]
        return np.load(held) if isinstance(held, Path) else held

    def drop(self, key: tuple[Any, ...]) -> None:
        """Remove a stored array."""
        held = self._held.pop(key)
        del self.shapes[key]
        if isinstance(held, Path):
            held.unlink()
        else:
            self._size -= held.nbytes
