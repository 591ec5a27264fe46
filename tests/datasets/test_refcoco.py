"""RefCOCO's files: sentences with their objects, partitions, splits, and malformed ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from onnxptq.datasets.refcoco import RefCoco
from onnxptq.errors import InputError


def test_every_sentence_of_the_split(refcoco_folder: Path) -> None:
    data = RefCoco.load(refcoco_folder, split="val")
    assert [e.text for e in data] == ["The left Cat", "cat", "small dog"]
    assert [e.ref for e in data] == [0, 0, 2]
    assert [int(e.mask().sum()) for e in data] == [200, 200, 108]
    assert data.splits == ("testA", "val")
    assert data.expressions[2].photo.image().shape == (30, 30, 3)


def test_only_the_splits_photographs_are_needed(refcoco_folder: Path) -> None:
    (refcoco_folder / "images" / "b.png").unlink()
    assert len(RefCoco.load(refcoco_folder, split="testA")) == 1
    with pytest.raises(InputError, match=r"image b\.png is not in"):
        RefCoco.load(refcoco_folder, split="val")


def test_partitions(refcoco_folder: Path, refs: list[dict[str, Any]]) -> None:
    (refcoco_folder / "refs(google).p").write_bytes(pickle.dumps(refs[:1], protocol=2))
    assert len(RefCoco.load(refcoco_folder, split="val", partition="google")) == 2
    with pytest.raises(InputError, match="partitions google, unc; choose one with --partition"):
        RefCoco.load(refcoco_folder, split="val")
    with pytest.raises(InputError, match="no partition 'umd'; it has google, unc"):
        RefCoco.load(refcoco_folder, split="val", partition="umd")


def test_unknown_split(refcoco_folder: Path) -> None:
    with pytest.raises(InputError, match="no split 'test'; it has testA, val"):
        RefCoco.load(refcoco_folder, split="test")


def test_a_ref_without_its_object(refcoco_folder: Path, refs: list[dict[str, Any]]) -> None:
    refs[0]["ann_id"] = 999
    (refcoco_folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(InputError, match="ref 0 names annotation 999"):
        RefCoco.load(refcoco_folder, split="val")


def test_a_folder_without_refs(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no refs"):
            RefCoco.load(folder, split="val")


REF = {"ref_id": 1, "ann_id": 11, "image_id": 1, "split": "val", "sentences": [{"sent": "a"}]}


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([_Evil()]), "not a refs file"),
        (b"garbage", "not a refs file"),
        (b"", "not a refs file"),
        (pickle.dumps({"a": 1}), "expected a list of refs"),
        (pickle.dumps([]), "expected a list of refs"),
        (pickle.dumps([{"ref_id": 1}]), "a ref has no 'ann_id'"),
        (pickle.dumps([3]), "a ref has no 'ref_id'"),
        (pickle.dumps([{**REF, "image_id": [1]}]), r"'image_id' of a ref: expected a whole number, got \[1\]"),
        (pickle.dumps([{**REF, "ref_id": "1"}]), "'ref_id' of a ref: expected a whole number"),
        (pickle.dumps([{**REF, "sentences": 3}]), "'sentences' of a ref: expected a list"),
        (pickle.dumps([{**REF, "sentences": [3]}]), "a sentence of ref 1: expected a table"),
        (pickle.dumps([{**REF, "sentences": [{"sent": 3}]}]), "the text of a sentence of ref 1: expected a text"),
        (b"\x80\x05\x96" + (2**34).to_bytes(8, "little") + b".", "not a refs file: it holds more than lists"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "expected a list of refs"),
        (b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"].", "expected a list of refs"),
        (pickle.dumps([(1, 2)]), "it holds more than lists"),
    ],
)
def test_a_refs_file_is_data_and_runs_nothing(
    refcoco_folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(refcoco_folder)
    (refcoco_folder / "refs(unc).p").write_bytes(content)
    with pytest.raises(InputError, match=message):
        RefCoco.load(refcoco_folder, split="val")
    assert not (refcoco_folder / "evil").exists()


@pytest.mark.parametrize(
    ("name", "split", "count"), [("refcoco", "testA", 12), ("refcoco", "val", 36), ("refcocog", "val", 6)]
)
def test_real_files(real: Path, name: str, split: str, count: int) -> None:
    data = RefCoco.load(real / "refcoco" / name, split=split)
    assert len(data) == count
    for expression in data.expressions[:4]:
        assert expression.mask().any()
        assert expression.photo.image().shape[:2] == expression.mask().shape
