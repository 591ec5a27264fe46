"""Folders and photographs of a data set, found by name; errors name the folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnxptq.errors import InputError
from onnxptq.files import reading


def existing(folder: Path, options: Sequence[str], what: str) -> Path:
    """The first of several subfolders that exists."""
    for option in options:
        if (folder / option).is_dir():
            return folder / option
    raise InputError(f"{what}: no folder {' or '.join(options)} in {folder}")


def require_folder(folder: Path, what: str) -> Path:
    """``folder``, which must exist."""
    if not folder.is_dir():
        raise InputError(f"{what} {folder}: no such folder")
    return folder


def find_image(folders: Iterable[Path], names: Iterable[str], what: str) -> Path:
    """The first of several names in one of several folders; names that leave their folder are refused."""
    folders, names = list(dict.fromkeys(folders)), list(names)
    for name in names:
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
            raise InputError(f"{what}: image {name!r} is no place inside the image folder; write a relative path")
    with reading(f"{what}: image {names[0]!r}"):
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
    raise InputError(f"{what}: image {names[0]} is not in {', '.join(str(f) for f in folders)}")
