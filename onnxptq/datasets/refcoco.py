"""RefCOCO, RefCOCO+ and RefCOCOg (G-Ref): `refs(PARTITION).p` and `instances.json`, in the refer API's layout."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from onnxptq.datasets.coco import Coco, Instance, Photo
from onnxptq.datasets.rle import Mask
from onnxptq.errors import InputError
from onnxptq.files import read_bytes, read_json, reading, require, whole

PARTITIONS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
IMAGE_FOLDERS = (
    "mscoco/images/train2014",
    "images/mscoco/images/train2014",
    "train2014",
    "images/train2014",
    "images",
    "images/coco",
    ".",
)


@dataclass(frozen=True)
class Expression:
    """One sentence with the object it names."""

    photo: Photo
    target: Instance
    text: str
    ref: int

    def mask(self) -> Mask:
        """Pixels of the object."""
        return self.target.mask(self.photo.height, self.photo.width, self.photo.source)


@dataclass(frozen=True)
class RefCoco:
    """All sentences of one split, in the file's order; every sentence of a ref counts."""

    expressions: tuple[Expression, ...]
    splits: tuple[str, ...]

    @classmethod
    def load(
        cls, folder: str | Path, *, split: str, partition: str | None = None, images: str | Path | None = None
    ) -> RefCoco:
        """Read one data set from its folder (which holds `refs(...).p` and `instances.json`).

        ``partition`` is unc, umd or google and may be left out where there is one file only. Photographs are looked for
        in ``images`` or in the usual places around ``folder``.
        """
        folder = Path(folder)
        file = _refs_file(folder, partition)
        refs = _read_refs(file)
        splits = tuple(sorted({ref["split"] for ref in refs}))
        if split not in splits:
            raise InputError(f"{file}: no split '{split}'; it has {', '.join(splits)}")
        annotations = folder / "instances.json"
        wanted = {ref["image_id"] for ref in refs if ref["split"] == split}
        coco = _instances(annotations, wanted, folder, images)
        photos = {p.id: p for p in coco}
        objects = {one.id: (photo, one) for photo in coco for one in photo.instances}
        found: list[Expression] = []
        for ref in refs:
            if ref["split"] != split:
                continue
            if ref["image_id"] not in photos or ref["ann_id"] not in objects:
                raise InputError(
                    f"{file}: ref {ref['ref_id']} names annotation {ref['ann_id']}, which {annotations} does not have"
                )
            photo, target = objects[ref["ann_id"]]
            found += [Expression(photo, target, s.get("raw", s.get("sent")), ref["ref_id"]) for s in ref["sentences"]]
        return cls(tuple(found), splits)

    def __len__(self) -> int:
        return len(self.expressions)

    def __iter__(self) -> Iterator[Expression]:
        return iter(self.expressions)


def _refs_file(folder: Path, partition: str | None) -> Path:
    files = sorted(folder.glob("refs(*).p")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: no refs(PARTITION).p; give the folder of refcoco, refcoco+ or refcocog")
    names = [f.name[5:-3] for f in files]
    if partition is None:
        if len(files) > 1:
            raise InputError(f"{folder}: partitions {', '.join(names)}; choose one with --partition")
        return files[0]
    if partition not in names:
        raise InputError(f"{folder}: no partition '{partition}'; it has {', '.join(names)}")
    return folder / f"refs({partition}).p"


OPCODES = """
PROTO FRAME STOP MARK EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE
GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE
BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING
"""
PLAIN = {getattr(pickle, name)[0] for name in OPCODES.split()}
"""The opcodes of lists, dictionaries, texts and numbers: refs files need no others, and others may run code."""


class _Loads(dict[int, Any]):
    """A handler for each opcode; an unknown one ends the reading."""

    def __missing__(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds more than lists, dictionaries, texts and numbers (opcode {code})")


class _PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler, limited to plain data; it reserves no memory for announced sizes."""

    dispatch = _Loads({code: load for code, load in pickle._Unpickler.dispatch.items() if code in PLAIN})


def unpickle(data: bytes) -> Any:
    """A pickle of lists, dictionaries, texts and numbers."""
    return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()


def _read_refs(path: Path) -> list[dict[str, Any]]:
    with reading(path):
        data = read_bytes(path)
    with reading(path, "not a refs file"):
        refs = unpickle(data)
    keys = {"ref_id": int, "ann_id": int, "image_id": int, "split": str, "sentences": list}
    if not isinstance(refs, list) or not refs:
        raise InputError(f"{path}: expected a list of refs, found {type(refs).__name__}")
    for ref in refs:
        lacking = [key for key in keys if not isinstance(ref, dict) or key not in ref]
        if lacking:
            raise InputError(f"{path}: a ref has no '{lacking[0]}'")
        for key, kind in keys.items():
            require(ref[key], kind, f"{path}: '{key}' of a ref")
        for sentence in ref["sentences"]:
            held = require(sentence, dict, f"{path}: a sentence of ref {ref['ref_id']}")
            require(held.get("raw", held.get("sent")), str, f"{path}: the text of a sentence of ref {ref['ref_id']}")
    return refs


def _instances(path: Path, wanted: set[Any], folder: Path, images: str | Path | None) -> Coco:
    """The instances of the wanted images only: not all of the file's 20,000 photographs have to be present."""
    data = read_json(path)
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= set(data):
        raise InputError(f"{path}: expected the lists images, annotations and categories")
    with reading(path, "is no COCO instances file"):
        data["images"] = [i for i in data["images"] if whole(i["id"]) in wanted]
        data["annotations"] = [a for a in data["annotations"] if whole(a["image_id"]) in wanted]
    if images is not None:
        return Coco.from_data(data, path, [Path(images), *(Path(images) / sub for sub in IMAGE_FOLDERS)])
    return Coco.from_data(data, path, [base / sub for base in (folder, folder.parent) for sub in IMAGE_FOLDERS])
