"""The build backend: scikit-build-core, which compiles the op library wherever there is a C++ compiler.

A compilation error ends the installation. Without a compiler, or with ``ONNXPTQ_PURE=1``, the package is installed
without the library, and every op runs through its function body.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

from scikit_build_core import build
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, list[str] | str] | None
NAMED = ("CXX", "CMAKE_TOOLCHAIN_FILE", "CMAKE_ARGS", "SKBUILD_CMAKE_ARGS")
"""Variables that choose a compiler: the chosen one must work."""
COMPILERS = ("c++", "g++", "clang++", "icpx", "CC", "cl", "clang-cl")
NO_COMPILER = (
    "onnxptq: warning: no C++ compiler found, so the native op library is left out and quantized models run slower "
    "(docs/speed.md). Install a C++ compiler (Debian: apt-get install g++; macOS: xcode-select --install; Windows: "
    "Visual Studio Build Tools) and install onnxptq again. ONNXPTQ_PURE=1 leaves the library out without this warning."
)


def build_wheel(out: str, settings: Settings = None, metadata: str | None = None) -> str:
    """Build a wheel."""
    _warn()
    return build.build_wheel(out, _wheel(settings), metadata)


def build_editable(out: str, settings: Settings = None, metadata: str | None = None) -> str:
    """Build the wheel of an editable install."""
    _warn()
    return build.build_editable(out, _editable(settings), metadata)


def prepare_metadata_for_build_wheel(out: str, settings: Settings = None) -> str:
    """Write the metadata of the wheel that build_wheel would make."""
    return build.prepare_metadata_for_build_wheel(out, _wheel(settings))


def prepare_metadata_for_build_editable(out: str, settings: Settings = None) -> str:
    """Write the metadata of the wheel that build_editable would make."""
    return build.prepare_metadata_for_build_editable(out, _editable(settings))


def get_requires_for_build_wheel(settings: Settings = None) -> list[str]:
    """CMake and Ninja, where the library is built and the machine lacks them."""
    return build.get_requires_for_build_wheel(_wheel(settings))


def get_requires_for_build_editable(settings: Settings = None) -> list[str]:
    """The same for an editable install."""
    return build.get_requires_for_build_editable(_editable(settings))


def has_compiler() -> bool:
    """True if the environment names a C++ compiler, or if one is found where CMake looks."""
    if any(os.environ.get(name) for name in NAMED):
        return True
    if sys.platform == "darwin":  # /usr/bin/c++ exists without a working compiler
        return subprocess.run(["xcode-select", "-p"], capture_output=True, check=False).returncode == 0
    if sys.platform == "win32":  # CMake finds Visual Studio by its installer, not by PATH
        programs = os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)")
        if (Path(programs) / "Microsoft Visual Studio" / "Installer" / "vswhere.exe").is_file():
            return True
    return any(shutil.which(name) for name in COMPILERS)


def _pure() -> bool:
    return os.environ.get("ONNXPTQ_PURE", "") not in ("", "0")


def _wheel(settings: Settings) -> Settings:
    """The settings of a wheel: no build folder, so that each build has a temporary one."""
    if _pure() or not has_compiler():
        return {**(settings or {}), "wheel.cmake": "false", "wheel.platlib": "false"}
    return settings


def _editable(settings: Settings) -> Settings:
    """The settings of an editable install: one build folder an environment, so that only changes are compiled."""
    folder = f"build/editable-{zlib.crc32(sys.prefix.encode()):08x}"
    return {"build-dir": folder, **(_wheel(settings) or {})}


def _warn() -> None:
    """Warn about the cost of a missing compiler, on the terminal too: installers show build output only on failure."""
    if _pure() or has_compiler():
        return
    print(NO_COMPILER, file=sys.stderr)
    for place in (f"/proc/{os.getppid()}/fd/2", "CONOUT$" if sys.platform == "win32" else "/dev/tty"):
        try:
            found = os.stat(place) if place.startswith("/") else None
            if found is not None and os.path.samestat(found, os.fstat(2)):
                return  # the installer hides nothing
            # A file is left alone: the installer would overwrite this line.
            if found is None or not stat.S_ISREG(found.st_mode):
                with open(place, "w", encoding="utf-8") as stream:
                    stream.write(f"\n{NO_COMPILER}\n")
                return
        except OSError:
            continue
