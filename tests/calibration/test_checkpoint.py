"""Checkpoints: a killed run continues and ends with the same bytes; changed settings are an error."""

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

from onnxptq.calibration.checkpoint import Checkpoint, discard, locked
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
    found = cast(Range, engine.fill({"h": Request("h", Range())}, stage="walk")["h"])
    alone = Engine(held, source(held, samples(SAMPLES))).fill({"h": Request("h", Range())}, stage="walk")["h"]
    assert found.low == cast(Range, alone).low


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def forged(path: Path) -> None:
    """Another value, in an archive that is whole."""
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    name = next(name for name in held if name.endswith("low"))
    held[name] = held[name] - 1
    np.savez(path, **held)  # type: ignore[arg-type]


def reversed_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def without_digest(path: Path) -> None:
    with np.load(path) as file:
        held = {name: file[name] for name in file.files if name != "digest"}
    np.savez(path, **held)  # type: ignore[arg-type]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("walk", "damage"),
    [
        *(("walk-000.npz", damage) for damage in (truncated, forged, reversed_bits, without_digest, emptied)),
        ("walk-000.npz", Path.unlink),
        ("walk-001.npz", truncated),
    ],
)
def test_a_damaged_walk_starts_anew_with_a_warning(tmp_path: Path, walk: str, damage: Any) -> None:
    run(Checkpoint(tmp_path / "r", IDENTITY, interval=0))
    damage(tmp_path / "r" / walk)
    again = Checkpoint(tmp_path / "r", IDENTITY, resume=True)
    assert run(again) == run(None)
    said = [] if damage is Path.unlink else [walk]
    assert [next(word for word in (walk,) if word in line) for line in again.warnings] == said


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_a_damaged_manifest_starts_anew_with_a_warning(tmp_path: Path, text: str) -> None:
    run(Checkpoint(tmp_path / "r", IDENTITY, interval=0))
    (tmp_path / "r" / "run.json").write_bytes(text.encode("latin1"))
    again = Checkpoint(tmp_path / "r", IDENTITY, resume=True)
    assert not again.resumed
    assert "run.json: damaged; the run starts anew" in again.warnings[0]
    assert run(again) == run(None)


@pytest.mark.parametrize(
    "left",
    [
        (),
        ("run.json.tmp",),
        ("walk-000.npz.tmp",),
        ("run.json.tmp", "walk-000.npz"),
        ("walk-000.npz", "walk-001.npz.tmp"),
        ("omse/run.json.tmp",),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_what_a_full_disk_leaves_is_no_wedge(tmp_path: Path, left: tuple[str, ...], resume: bool) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    for name in left:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"half")
    fresh = Checkpoint(folder, IDENTITY, resume=resume)
    assert sorted(p.name for p in folder.iterdir()) == ["run.json"]
    assert not fresh.resumed
    fresh.remove()
    assert not folder.exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("text", ["[]", "{}", '{"model": "m"}', "not JSON", '"' + "[" * 10])
def test_a_strangers_manifest_is_never_deleted(tmp_path: Path, text: str, resume: bool) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text(text)
    with pytest.raises(InputError, match="holds something else; move it away"):
        Checkpoint(tmp_path / "r", IDENTITY, resume=resume)
    discard(tmp_path / "r")
    assert (tmp_path / "r" / "run.json").read_text() == text


def test_a_checkpoint_with_a_strangers_file_is_never_deleted(tmp_path: Path) -> None:
    held = Checkpoint(tmp_path / "r", IDENTITY)
    (tmp_path / "r" / "omse").mkdir()
    (tmp_path / "r" / "omse" / "thesis.tex").write_text("years of work")
    held.remove()
    assert sorted(p.name for p in tmp_path.glob("r/**/*")) == ["omse", "run.json", "thesis.tex"]


def test_parts_of_files_go_on_resume(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "r", IDENTITY)
    (tmp_path / "r" / "walk-000.npz.tmp").write_bytes(b"half")
    assert Checkpoint(tmp_path / "r", IDENTITY, resume=True).resumed
    assert not (tmp_path / "r" / "walk-000.npz.tmp").exists()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    held = Checkpoint(tmp_path / "r", IDENTITY)
    (tmp_path / "r" / "run.json").unlink()
    (tmp_path / "r").rmdir()
    with pytest.raises(InputError, match="r: cannot write the checkpoint: No such file"):
        held.save(0, "signature", [1], [{}])


def test_one_run_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path / "r"):
        with pytest.raises(InputError, match="another run writes to this output"), locked(tmp_path / "r"):
            pass
        assert (tmp_path / "r").is_dir()
    assert not (tmp_path / "r").exists()
    with locked(tmp_path / "r"):
        Checkpoint(tmp_path / "r", IDENTITY)
    assert (tmp_path / "r" / "run.json").is_file()
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="f: needed for the checkpoint"), locked(tmp_path / "f"):
        pass


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
from onnxptq.calibration.checkpoint import Checkpoint, discard, locked
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
