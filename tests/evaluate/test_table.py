"""Tables: cells are kept, the reference runs once, rows and drawings match the cells."""

from __future__ import annotations

import csv
import io
import json
import re
from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from onnxptq.cli import main, table
from onnxptq.datasets import zoo
from onnxptq.errors import InputError
from onnxptq.evaluate.grid import FULL, Cell, Folder, comma_separated, drawing, markdown
from onnxptq.evaluate.predictors import Masks
from onnxptq.evaluate.replay import Remembered, Replay
from onnxptq.evaluate.task import evaluate_task
from onnxptq.evaluate.tasks.scenes import SceneBoxes
from onnxptq.workers import HERE

CELLS = [
    Cell(FULL, "w32a32", "val", {"mIoU": 85.0}),
    Cell("rtn", "w8a8", "val", {"mIoU": 84.5, "agreement": 99.0}),
    Cell("omse", "w8a8", "val", {"mIoU": 84.9, "agreement": 98.0}),
    Cell("rtn", "w4a4", "val", {"mIoU": 70.25, "agreement": 60.0}),
    Cell("omse", "w4a4", "val", {"mIoU": 80.0, "agreement": 80.0}),
]


def test_markdown_groups_by_width_and_marks_the_best() -> None:
    lines = markdown(CELLS, ("mIoU", "agreement", "AP")).splitlines()
    assert lines[0] == "| bits | method | val mIoU | val agreement |"
    assert lines[2] == "| w32a32 | FP32 | 85.00 |  |"
    assert lines[3:5] == ["| w8a8 | rtn | 84.50 | **99.00** |", "| w8a8 | omse | **84.90** | 98.00 |"]
    assert lines[6] == "| w4a4 | omse | **80.00** | **80.00** |"


def test_csv_holds_every_figure() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(CELLS))))
    assert len(rows) == 5
    assert rows[3] == {"recipe": "rtn", "bits": "w4a4", "split": "val", "mIoU": "70.2500", "agreement": "60.0000"}
    assert rows[0]["agreement"] == ""


def test_drawing_is_to_scale() -> None:
    root = ElementTree.fromstring(drawing(CELLS, "mIoU", "val"))
    text = "{http://www.w3.org/2000/svg}text"
    words = [t.text for t in root.iter(text)]
    assert {"mIoU on val", "rtn", "omse", "w8a8", "w4a4", FULL} <= set(words)
    lines = [
        [tuple(map(float, p.split(","))) for p in e.get("points", "").split()]
        for e in root.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert len(lines) == 2
    (rtn8, rtn4), (omse8, omse4) = lines
    assert rtn8[0] == omse8[0] < rtn4[0]
    drop = (rtn4[1] - rtn8[1]) / (omse4[1] - omse8[1])
    assert drop == pytest.approx((84.5 - 70.25) / (84.9 - 80.0), rel=0.02)


def test_drawing_of_nothing_is_a_drawing() -> None:
    assert ElementTree.fromstring(drawing([], "mIoU", "val")).tag.endswith("svg")
    assert ElementTree.fromstring(drawing(CELLS[:1], "mIoU", "val")).tag.endswith("svg")


def test_cells_are_kept_and_foreign_folders_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"seed": 0, "samples": 8})
    assert folder.get("rtn", "w8a8", "val") is None
    folder.put(CELLS[1])
    assert Folder(tmp_path, {"samples": 8, "seed": 0}).get("rtn", "w8a8", "val") == CELLS[1]
    with pytest.raises(InputError, match="made with seed 0, not 1; give another folder"):
        Folder(tmp_path, {"seed": 1, "samples": 8})


class Counting:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def masks(self, image: np.ndarray, boxes: np.ndarray) -> Masks:
        self.asked += 1
        masks = np.zeros((len(boxes), *image.shape[:2]), bool)
        masks[:, : 20 + len(boxes)] = True
        return Masks(masks, np.linspace(0, 1, len(boxes), dtype=np.float32))


def test_the_reference_is_asked_once(tmp_path: Path) -> None:
    counting, started = Counting(), []

    def start() -> Counting:
        started.append(1)
        return counting

    results = []
    for _ in range(2):
        other = Counting()
        results.append(
            evaluate_task(
                Replay(SceneBoxes("val", 4), tmp_path), {"reference": Remembered(start), "other": other}, limit=3
            )
        )
        assert other.asked == 3
    assert counting.asked == 3
    assert len(started) == 1
    assert results[0] == results[1]
    assert results[0].rows[1].agreement == 100


GRID = [
    "table",
    "sam",
    "--bits",
    "w8a8,w3a3",
    "--splits",
    "val:2,testA:1",
    "--recipes",
    "minmax",
    "--samples",
    "2",
    "--threads",
    "1",
]


def test_command_line_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def quantize(args: object, recipe: str, bits: str, scratch: Path) -> list[Path]:
        made.append((recipe, bits))
        return [zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")]

    monkeypatch.setattr(table, "_quantize", quantize)
    out = tmp_path / "t"
    assert main([*GRID, "-o", str(out)]) == 0
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert len(re.findall(r"\n\| w", text)) == 3
    assert len(list(out.glob("*.svg"))) == 8
    assert made == [("minmax", "w8a8"), ("minmax", "w3a3")], "one quantization serves all splits"
    (out / "cells" / "minmax-w3a3-testA.json").unlink()
    assert main([*GRID, "-o", str(out), "--json"]) == 0
    assert made[2:] == [("minmax", "w3a3")], "finished cells are not made again"
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 6
    assert all(cell["agreement"] == 100 for cell in cells if cell["recipe"] == "minmax")
    assert main([*GRID, "-o", str(out), "--samples", "3"]) == 2
    assert "made with samples 2, not 3" in capsys.readouterr().err


def test_files_are_of_the_format_asked_for(tmp_path: Path) -> None:
    how = {"samples": 1, "seed": 0, "threads": 1, "format": "qdq", "opened": HERE}
    args = Namespace(task="sam", model=None, calib="zoo:sam-mini", **how)
    for path in table._quantize(args, "omse+softmax.calibrator=softmax", "w8a8", tmp_path):
        ops = {(node.domain, node.op_type) for node in onnx.load(path).graph.node}
        assert ("", "QuantizeLinear") in ops
        assert {domain for domain, _ in ops} == {""}


@pytest.mark.slow
def test_fewer_bits_agree_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRID, "-o", str(tmp_path / "t"), "--json"]) == 0
    cells = {(c["bits"], c["split"]): c for c in json.loads(capsys.readouterr().out)["cells"]}
    for split in ("val", "testA"):
        assert cells["w8a8", split]["agreement"] > 95
        assert cells["w3a3", split]["agreement"] < cells["w8a8", split]["agreement"] - 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sam", "--recipes", "nonsense"], "nonsense"),
        (["sam", "--bits", "w9a9"], "w9a9"),
        (["sam", "--splits", "val:x"], "--splits val:x: write SPLIT or SPLIT:N"),
        (["sam", "--splits", "none:1"], "split 'none'"),
        (["coco", "--data", "x.json", "--model", "zoo:sam-mini"], "table coco: --calib is missing"),
        (["sam", "--pictures", "p"], "belong to evaluate"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["table", *words, "-o", str(tmp_path / "t")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("onnxptq:")]) == 1
