"""Checkpoints: a killed run goes on and ends with the same bytes; what changed since is an error."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.engine import Engine
from onnxptq.calibration.statistics.base import Request, Several, Statistic
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import Moments, Range
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.errors import InputError
from tests.calibration.small import mlp, samples, source

IDENTITY = {"model": "m", "samples": "s"}
SAMPLES = 6


class Interrupted(Exception):
    """Stands for whatever ends a run."""


def search(name: str) -> Generator[Request, Statistic, dict[str, bytes]]:
    """Two rounds; the second depends on the first."""
    seen = yield Request(name, Several(Moments(-1), Histogram(64), RowSample(4)))
    first = cast(Moments, cast(Several, seen).members[0])
    again = yield Request(name, Histogram(16 if first.low.min() < 0 else 32))
    return {key: array.tobytes() for held in (seen, again) for key, array in held.arrays().items()}


def run(
    checkpoint: Checkpoint | None, *, stop_at: int | None = None, memory_limit: int | None = None
) -> dict[str, dict[str, bytes]]:
    """Calibrate; ``stop_at`` counts forward passes until the interruption."""
    held = mlp()
    given = source(held, samples(SAMPLES))
    left = [stop_at if stop_at is not None else -1]
    iterate = given.iterate

    def counted(start: int = 0) -> Any:
        for sample in iterate(start):
            if left[0] == 0:
                raise Interrupted
            left[0] -= 1
            yield sample

    given.iterate = counted  # type: ignore[method-assign]
    engine = Engine(held, given, threads=1, observers=False, checkpoint=checkpoint, memory_limit=memory_limit)
    return engine.drive({name: search(name) for name in ("h", "g", "y")}, stage="search")


@pytest.mark.parametrize("limit", [None, 800])
@pytest.mark.parametrize("stop_at", [0, 1, 4, 6, 9, 13, 17])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, stop_at: int, limit: int | None) -> None:
    whole = run(None)
    folder = tmp_path / "out.resume"
    with contextlib.suppress(Interrupted):
        run(Checkpoint(folder, IDENTITY, interval=0), stop_at=stop_at, memory_limit=limit)
    again = Checkpoint(folder, IDENTITY, resume=True)
    assert again.resumed
    assert run(again) == whole
    again.remove()
    assert not folder.exists()


def test_finished_samples_are_not_walked_again(tmp_path: Path) -> None:
    measuring = 1  # of the sizes of tensors, on the first sample
    with pytest.raises(Interrupted):
        run(Checkpoint(tmp_path / "r", IDENTITY, interval=0), stop_at=measuring + SAMPLES + 2)
    with pytest.raises(Interrupted):
        run(Checkpoint(tmp_path / "r", IDENTITY, resume=True), stop_at=measuring + SAMPLES - 3)
    run(Checkpoint(tmp_path / "r", IDENTITY, resume=True), stop_at=measuring + SAMPLES - 2)


def test_without_resume_everything_starts_anew(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path / "r", IDENTITY, interval=0))
    fresh = Checkpoint(tmp_path / "r", IDENTITY)
    assert not fresh.resumed
    assert sorted(p.name for p in fresh.folder.iterdir()) == ["run.json"]


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    assert not Checkpoint(tmp_path / "r", IDENTITY, resume=True).resumed


def test_what_changed_is_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "r", IDENTITY)
    with pytest.raises(InputError, match=r"r: model changed since the interrupted run"):
        Checkpoint(tmp_path / "r", IDENTITY | {"model": "n"}, resume=True)


def test_other_questions_than_the_checkpoint_answers(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path / "r", IDENTITY, interval=0))
    held = mlp()
    engine = Engine(held, source(held, samples(SAMPLES)), checkpoint=Checkpoint(tmp_path / "r", IDENTITY, resume=True))
    with pytest.raises(InputError, match="another version or plan"):
        engine.fill({"h": Request("h", Range())}, stage="walk")


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path / "r", IDENTITY, interval=0))
    path = tmp_path / "r" / "walk-000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"walk-000\.npz: damaged checkpoint"):
        run(Checkpoint(tmp_path / "r", IDENTITY, resume=True))
    (tmp_path / "r" / "run.json").write_text("[]")
    with pytest.raises(InputError, match="not a checkpoint of onnxptq"):
        Checkpoint(tmp_path / "r", IDENTITY, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        Checkpoint(tmp_path, IDENTITY)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        Checkpoint(tmp_path / "file" / "r", IDENTITY)


CHILD = """
import sys, time
from onnxptq.calibration.checkpoint import Checkpoint
from tests.calibration import test_checkpoint as t
wait = Checkpoint.save
def slowly(self, *args):
    wait(self, *args)
    print("saved", flush=True)
    time.sleep(0.05)
Checkpoint.save = slowly
t.run(Checkpoint(sys.argv[1], t.IDENTITY, interval=0))
"""


@pytest.mark.parametrize("saves", [2, 8])
def test_kill_9_and_resume(tmp_path: Path, saves: int) -> None:
    folder = tmp_path / "out.resume"
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, env=environment, cwd=root
    ) as child:
        assert child.stdout is not None
        for _ in range(saves):
            assert child.stdout.readline() == b"saved\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    with np.load(folder / f"walk-{(saves - 1) // SAMPLES:03d}.npz") as held:
        assert held["seen"].sum() > 0
    assert run(Checkpoint(folder, IDENTITY, resume=True)) == run(None)
