"""The compiled op library: its path, and the instruction set that it uses."""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import os
import platform
import sys
from pathlib import Path

from onnxptq.errors import InputError

MACHINES = frozenset({"x86_64", "amd64", "aarch64", "arm64"})
"""Processors that the library supports."""
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def path() -> Path | None:
    """The path of this installation's library or of ``$ONNXPTQ_LIBRARY``; None if there is none."""
    named = os.environ.get("ONNXPTQ_LIBRARY")
    if named is not None:
        if not Path(named).is_file():
            raise InputError(f"ONNXPTQ_LIBRARY={named}: no such file; unset it or name the compiled library")
        return Path(named)
    folder = importlib.resources.files("onnxptq.ops") / "_lib"
    if not folder.is_dir():
        return None
    found = sorted(Path(str(f)) for f in folder.iterdir() if f.name.endswith(_SUFFIX))
    return found[0] if found else None


def lacking() -> bool:
    """True if this machine could run a library but has none, unless ``ONNXPTQ_PURE=1`` left it out."""
    pure = os.environ.get("ONNXPTQ_PURE", "") not in ("", "0")
    return not pure and platform.machine().lower() in MACHINES and path() is None


@functools.cache
def _load(file: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(file))
    library.onnxptq_isa.restype = ctypes.c_char_p
    library.onnxptq_isa_name.restype = ctypes.c_char_p
    library.onnxptq_isa_name.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)]
    return library


def isa() -> str | None:
    """The instruction set a session opened now would use (capped by ``$ONNXPTQ_ISA``); None without a library."""
    file = path()
    if file is None:
        return None
    name: bytes | None = _load(file).onnxptq_isa()
    if name is None:
        known = ", ".join(isas(usable=False))
        raise InputError(
            f"ONNXPTQ_ISA={os.environ.get('ONNXPTQ_ISA')}: not an instruction set of this library; use one of {known}"
        )
    return name.decode()


def isas(*, usable: bool = True) -> list[str]:
    """The library's instruction sets from worst to best, by default only those of this CPU."""
    file = path()
    if file is None:
        return []
    library, flag, names = _load(file), ctypes.c_int(), list[tuple[str, bool]]()
    while (name := library.onnxptq_isa_name(len(names), ctypes.byref(flag))) is not None:
        names.append((name.decode(), bool(flag.value)))
    return [name for name, here in names if here or not usable]
