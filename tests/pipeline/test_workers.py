"""Workers change nothing: the same files, figures and errors, whatever their number and whatever happens to them."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Silent
from onnxptq.cli import main
from onnxptq.datasets import zoo
from onnxptq.errors import InputError
from onnxptq.evaluate.models import open_lavt, open_sam
from onnxptq.evaluate.task import evaluate_task
from onnxptq.evaluate.tasks.scenes import SceneBoxes, SceneRefs
from onnxptq.workers import HERE, Workers, opened
from tests.pipeline.test_asymmetric import MODEL, SAMPLES


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    with opened(3) as workers:
        yield workers


def file(workers: Workers, samples: Any = SAMPLES, **options: Any) -> bytes:
    q = Quantizer(MODEL, bits="w4a4", include=[".*"], threads=1, workers=workers, **options)
    q.calibrate(samples, limit=8)
    done = q.quantize()
    return bytes(done.model.SerializeToString()) + done.plan.to_json().encode()


@pytest.mark.parametrize("recipe", ["auto", "percentile"])
def test_the_same_file(processes: Workers, recipe: str) -> None:
    assert file(processes, recipe=recipe) == file(HERE, recipe=recipe)


class Killer(Silent):
    """Kills a worker when the task of this name has begun."""

    def __init__(self, name: str) -> None:
        self.name, self.killed = name, 0

    def task(self, label: str, total: int) -> Any:
        """See Progress."""
        if label.startswith(self.name) and not self.killed:
            self.killed = 1
            threading.Timer(0.02, multiprocessing.active_children()[0].kill).start()
        return super().task(label, total)


@pytest.mark.parametrize("stage", ["calibration", "weights"])
def test_the_same_file_where_a_worker_is_killed(stage: str) -> None:
    killer = Killer(stage)
    with opened(2) as workers:
        assert file(workers, progress=killer) == file(HERE)
    assert killer.killed


@pytest.mark.parametrize("killed", [HERE, None])
def test_a_walk_goes_on_where_it_was_stopped(
    processes: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: Workers | None
) -> None:
    """What is loaded counts once, not once a sample."""
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    real, saved = Checkpoint.save, []

    def save(self: Checkpoint, *args: Any) -> None:
        real(self, *args)
        saved.append(args[2])
        if 0 < max(args[2]) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save)
    q = Quantizer(MODEL, recipe="percentile", bits="w4a4", include=[".*"], threads=1, workers=killed or processes)
    with pytest.raises(KeyboardInterrupt):
        q.calibrate(SAMPLES, limit=8, folder=tmp_path / "kept")
    monkeypatch.setattr(Checkpoint, "save", real)
    q = Quantizer(MODEL, recipe="percentile", bits="w4a4", include=[".*"], threads=1, workers=processes)
    q.calibrate(SAMPLES, limit=8, folder=tmp_path / "kept", resume=True)
    done = q.quantize()
    assert done.model.SerializeToString() + done.plan.to_json().encode() == file(HERE, recipe="percentile")


class Loader:
    """Samples made anew in every walk, without numbers."""

    def __len__(self) -> int:
        return len(SAMPLES)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(SAMPLES)


def test_samples_of_a_loader_are_shared_out(processes: Workers) -> None:
    assert file(processes, Loader()) == file(HERE)


def test_the_error_of_a_sample(processes: Workers) -> None:
    bad = [*SAMPLES[:5], {"x": np.full((2, 16, 16), np.nan, np.float32)}, *SAMPLES[6:]]
    for workers in (HERE, processes):
        with pytest.raises(InputError, match="sample 5: input 'x' holds NaN"):
            file(workers, bad)


def test_figures_of_tasks(processes: Workers) -> None:
    sam, lavt = {"sam": open_sam("zoo:sam-mini", threads=1)}, {"lavt": open_lavt("zoo:lavt-mini", threads=1)}
    for task, models in ((SceneBoxes("val", 5), sam), (SceneRefs("refscene", "val", 5), lavt)):
        assert evaluate_task(task, models, workers=processes) == evaluate_task(task, models)


@pytest.mark.slow
def test_tables(tmp_path: Path) -> None:
    grid = ["table", "sam", "--limit", "4", "--samples", "2", "--recipes", "minmax", "--bits", "w8a8", "--threads", "1"]
    assert main([*grid, "-o", str(tmp_path / "here")]) == 0
    assert main([*grid, "-o", str(tmp_path / "there"), "--workers", "2"]) == 0
    assert (tmp_path / "here" / "table.csv").read_bytes() == (tmp_path / "there" / "table.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_zoo(engine: str, count: int) -> None:
    if engine == "ray":
        pytest.importorskip("ray")

    def made(name: str, calib: str, workers: Workers) -> bytes:
        q = Quantizer(zoo.path(name), bits="w4a4", threads=1, workers=workers)
        q.calibrate(calib, limit=4, preprocess="sam")
        return bytes(q.quantize().model.SerializeToString())

    for name, calib in (("sam-mini-decoder", "zoo:sam-mini"), ("lavt-mini", "zoo:lavt-mini")):
        with opened(count, engine) as workers:
            assert made(name, calib, workers) == made(name, calib, HERE)
