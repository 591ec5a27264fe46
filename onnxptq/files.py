"""Readers of untrusted files: every failure becomes one line that names the file."""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from reprlib import repr
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError, one_line

LARGEST = 2**31
"""Bytes of the largest text file that is read; COCO's instances are a quarter of it."""
Header = tuple[np.dtype[Any], tuple[int, ...]]


@contextmanager
def reading(what: object, problem: str = "cannot be read") -> Iterator[None]:
    """Turn every exception of a reader into an InputError about ``what``."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{what}: needs more memory than there is") from None
    except RecursionError:
        raise InputError(f"{what}: is nested too deeply") from None
    except KeyError as error:
        raise InputError(f"{what}: {problem}: it has no {error}") from error
    except OSError as error:
        raise InputError(f"{what}: {problem}: {error.strerror or one_line(error)}") from error
    except Exception as error:
        raise InputError(f"{what}: {problem}: {one_line(error)}") from error


def read_bytes(path: Path, *, most: int = LARGEST) -> bytes:
    """The content of a file of at most ``most`` bytes; devices, which may be endless, are refused."""
    with open(path, "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise InputError(f"{path}: is a device; give a file")
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: holds more than {most} bytes")
    return data


def read_text(path: Path) -> str:
    """The content of a UTF-8 file."""
    return read_bytes(path).decode()


def parse_json(text: str) -> Any:
    """The data of a JSON text; NaN and Infinity, which JSON does not have, are a ValueError."""
    return json.loads(text, parse_constant=_no_number)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    with reading(path):
        text = read_text(path)
    with reading(path, "not valid JSON"):
        return parse_json(text)


def parse_toml(text: str) -> dict[str, Any]:
    """The data of a TOML text."""
    return tomllib.loads(text)


def whole(value: Any, *, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """``value``, if it is a whole number in that range; else a ValueError, also for True, 1.5 and "1"."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise ValueError(f"{repr(value)} is not a whole number")
    if not least <= value <= most:
        raise ValueError(f"{repr(value)} is not between {least} and {most}")
    return int(value)


def finite(value: Any) -> float:
    """``value``, if it is a finite number; else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
        raise ValueError(f"{repr(value)} is not a finite number")
    return float(value)


class Archive:
    """The arrays of an .npz, or of an .npy as ``""``; all headers are checked before any data is read.

    No array may claim more bytes than its file holds, and all together no more than ``most``.
    """

    def __init__(self, path: Path, *, most: int) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        """Type and shape of each array."""
        with self._reading():
            with open(path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise InputError(f"{path}: is no regular file")
                if file.read(6) == b"\x93NUMPY":
                    file.seek(0)
                    self.headers[""] = _header(file, os.fstat(file.fileno()).st_size)
            if not self.headers:
                with zipfile.ZipFile(path) as archive:
                    for info in archive.infolist():
                        with archive.open(info) as member:
                            self.headers[info.filename.removesuffix(".npy")] = _header(member, info.file_size)
            total = sum(kind.itemsize * math.prod(shape) for kind, shape in self.headers.values())
            if total > most:
                raise InputError(f"{path}: holds {total} bytes of arrays; at most {most} are read here")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them."""
        with self._reading():
            held = np.load(self.path, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return {"": held}
            with held:
                return {name: held[name] for name in self.headers}

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "cannot be read as NumPy arrays")


def _header(file: IO[bytes], size: int) -> Header:
    """Type and shape of an array in the first ``size`` bytes of a file."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"NumPy format {version[0]}.{version[1]} is not known")
    shape, _, kind = readers[version](file)
    if kind.hasobject or kind.itemsize > 2**16:
        raise ValueError(f"an array holds elements of type {kind.str}")
    if any(isinstance(n, bool) or n < 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"an array has shape {list(shape)}")
    if kind.itemsize * math.prod(shape) > size - file.tell():
        raise ValueError(f"an array of shape {list(shape)} has fewer bytes than it needs")
    return kind, shape


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def require(data: Any, kind: type, what: str) -> Any:
    """``data``, if it is of that type; else an InputError about ``what``."""
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        words = {dict: "a table", Mapping: "a table", list: "a list", str: "a text", int: "a whole number"}
        raise InputError(f"{what}: expected {words.get(kind, kind.__name__)}, got {repr(data)}")
    return data
