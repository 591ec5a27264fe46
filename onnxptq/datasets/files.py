"""Opening what a data set is made of, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from onnxptq.errors import InputError


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the file's header."""
    with _open(path) as image:
        return image.size


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3]."""
    with _open(path) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise InputError(f"image {path}: cannot be decoded ({error})") from None


def read_labels(path: Path) -> NDArray[np.int64]:
    """Class index of every pixel [H, W] of a label image with one channel."""
    with _open(path) as image:
        try:
            labels = np.asarray(image)
        except OSError as error:
            raise InputError(f"label image {path}: cannot be decoded ({error})") from None
    if labels.ndim != 2:
        raise InputError(f"label image {path}: has {labels.shape[-1]} channels; expected one channel of class indices")
    return labels.astype(np.int64)


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
    """The first of several names found in one of several folders."""
    folders, names = list(dict.fromkeys(folders)), list(names)
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise InputError(f"{what}: image {names[0]} is not in {', '.join(str(f) for f in folders)}")


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise InputError(f"image {path}: no such file") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"image {path}: cannot be read ({error})") from None
