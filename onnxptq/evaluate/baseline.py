"""FP32 scores of the zoo's models on all their splits: the figures published with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxptq.calibration.progress import Progress
from onnxptq.datasets import scenes
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.evaluate.predictors import LavtPredictor, SamPredictor
from onnxptq.evaluate.task import Task, evaluate_task
from onnxptq.evaluate.tasks.scenes import SceneBoxes, SceneRefs

SPLITS = ("val", "testA", "testB")
SCENES, SENTENCES = 250, 1000


def measure_sam(folder: Path, progress: Progress, *, count: int = SCENES) -> dict[str, Any]:
    """By split: every object of ``count`` scenes by its box."""
    predictor = SamPredictor(folder / "sam-mini-encoder.onnx", folder / "sam-mini-decoder.onnx")
    return {
        split: _figures(SceneBoxes(split, count, size=predictor.size), predictor, f"sam {split}", progress)
        for split in SPLITS
    }


def measure_lavt(folder: Path, progress: Progress, *, count: int = SENTENCES) -> dict[str, Any]:
    """By benchmark and split: ``count`` sentences."""
    predictor = LavtPredictor(folder / "lavt-mini.onnx", WordPiece.load(folder / "lavt-mini.vocab.txt"))
    return {
        benchmark: {
            split: _figures(
                SceneRefs(benchmark, split, count, size=predictor.size), predictor, f"{benchmark} {split}", progress
            )
            for split in SPLITS
        }
        for benchmark in scenes.BENCHMARKS
    }


def _figures(task: Task[Any], predictor: Any, label: str, progress: Progress) -> dict[str, float]:
    with progress.task(label, len(task)) as advance:
        found = evaluate_task(task, {"fp32": predictor}, watch=lambda done, of: advance())
    return {name: round(value, 2) for name, value in found.rows[0].figures.items()}
