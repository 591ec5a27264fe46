from __future__ import annotations

from pathlib import Path

from onnxptq.evaluate.records import read_record, write_record


def test_records_are_kept_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "one.json"
    assert read_record(path) == {}
    write_record(path, {"mIoU": 81.25})
    write_record(path, {"mIoU": 82.5, "bits": "w4a4"})
    assert read_record(path) == {"mIoU": 82.5, "bits": "w4a4"}
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]
