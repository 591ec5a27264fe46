"""Runs in a shell, under cron and under signals: the artifact, one line, an exit code, and how to continue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxptq import cli
from onnxptq.calibration.checkpoint import locked
from onnxptq.errors import LONGEST
from tests.cli.conftest import Run, listing, quick

STOPPED = """
import os, signal, sys
from onnxptq.calibration.checkpoint import Checkpoint
# A shell starts background jobs with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
save = Checkpoint.save
def saved(self, *state):
    save(self, *state)
    os.kill(os.getpid(), int(sys.argv[1]))
Checkpoint.save, Checkpoint.due = saved, lambda self: True
from onnxptq.cli import main
raise SystemExit(main(sys.argv[2:]))
"""


def shell(line: str, *argv: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``onnxptq ARGV`` in place of ``"$@"`` of a line of sh."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, "-m", "onnxptq", *map(os.fspath, argv)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": root} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(folder: Path, streams: str) -> None:
    done = shell(f'"$@" {streams}', *quick("-o", "out.onnx"), cwd=folder)
    assert done.returncode == 0
    assert b"warning" in done.stderr or "2>&-" in streams
    assert (folder / "out.onnx").stat().st_size > 1000
    assert not (folder / "out.onnx.resume").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output(folder: Path) -> None:
    done = shell('"$@" > /dev/full', "inspect", "vision.onnx", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == b"onnxptq: standard output: cannot be written: No space left on device\n"
    assert shell('"$@" 2> /dev/full', "inspect", "none.onnx", cwd=folder).returncode == 2


def test_a_home_that_cannot_be_written(folder: Path) -> None:
    done = shell('"$@"', "inspect", "vision.onnx", cwd=folder, HOME="/proc")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_run_says_how_to_go_on(run: Run, folder: Path, number: int, code: int, word: str) -> None:
    argv = [str(part) for part in quick("-o", "out.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number)), *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"onnxptq: {word}; what was found is kept in out.onnx.resume; give the same command with --resume to go on\n"
    assert (done.returncode, done.stderr) == (code, said)
    assert not (folder / "out.onnx").exists()
    assert run(*argv, "--resume").code == 0
    assert run(*quick("-o", "whole.onnx")).code == 0
    assert (folder / "out.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert not (folder / "out.onnx.resume").exists()


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (cli.Terminated, 143)])
def test_nothing_is_kept_where_nothing_was_found(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], code: int
) -> None:
    from onnxptq.calibration.engine import Engine

    def walk(*args: object, **options: object) -> None:
        raise stop

    before = listing(folder)
    monkeypatch.setattr(Engine, "_walk", walk)
    done = run(*quick())
    assert (done.code, done.err) == (code, f"onnxptq: {'interrupted' if code == 130 else 'terminated'}\n")
    assert listing(folder) == before


def test_a_bug_leaves_no_checkpoint(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxptq.calibration.engine import Engine

    def walk(*args: object, **options: object) -> None:
        raise ZeroDivisionError("oops")

    before = listing(folder)
    monkeypatch.setattr(Engine, "_walk", walk)
    assert run(*quick()).code == 1
    assert listing(folder) == before


def test_one_run_for_an_output(run: Run, folder: Path) -> None:
    with locked(folder / "vision.w8a8.onnx.resume"):
        done = run(*quick())
    assert (done.code, done.out) == (2, "")
    assert "another run writes to this output" in done.err
    assert run(*quick()).code == 0


def test_unfinished_files_go_with_the_next_run(run: Run, folder: Path) -> None:
    for name in (".out.onnx.abcdefgh.part", ".out.onnx.data.abcdefgh.part", ".out.onnx.old.onnx.abcdefgh.part"):
        (folder / name).write_bytes(b"half")
    assert run(*quick("-o", "out.onnx")).code == 0
    assert [path.name for path in folder.glob(".*")] == [".out.onnx.old.onnx.abcdefgh.part"]


def test_an_output_folder_that_is_gone(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxptq.quantizer import Quantizer

    real = Quantizer.calibrate

    def calibrate(self: Quantizer, *args: object, **options: object) -> object:
        plan = real(self, *args, **options)  # type: ignore[arg-type]
        shutil.rmtree(folder / "d")
        return plan

    (folder / "d").mkdir()
    monkeypatch.setattr(Quantizer, "calibrate", calibrate)
    done = run(*quick("-o", "d/out.onnx"))
    assert done.code == 2
    assert done.err.startswith("onnxptq: d/out.onnx: there is no folder")
    assert len(done.err.splitlines()) == 1


def test_names_that_are_not_utf8(run: Run, folder: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    (folder / "vision.onnx").rename(folder / f"{odd}.onnx")
    (folder / odd).mkdir()
    for index in range(2):
        values = np.random.default_rng(index).normal(size=(1, 3, 16, 16)).astype(np.float32)
        np.savez(folder / odd / f"{odd}{index}.npz", image=values)
    argv = ("quantize", f"{odd}.onnx", "--recipe", "minmax", "--calib", odd, "-o", f"{odd}.out.onnx")
    done = run(*argv, "--report", f"{odd}.html", "--plan-out", f"{odd}.json", "--json")
    assert done.code == 0, done.err
    assert (folder / f"{odd}.out.onnx").is_file()
    assert (folder / f"{odd}.html").is_file()
    assert run(*argv, "--plan-in", f"{odd}.json").code == 0


@pytest.mark.parametrize("words", [("a\x1b[31m\x07b.onnx",), ("x" * 3000,), ("--bits", "\x00" + "9" * 100_000)])
def test_what_is_echoed_is_short_and_printable(run: Run, folder: Path, words: tuple[str, ...]) -> None:
    done = run("quantize", *words, *(() if len(words) == 1 else ("vision.onnx",)))
    assert done.code == 2
    assert done.err.rstrip("\n").isprintable()
    assert len(done.err) <= LONGEST + 20


def test_progress_stays_away_from_json(run: Run, folder: Path) -> None:
    (folder / "calib").mkdir()
    np.savez(folder / "calib" / "a.npz", image=np.full((1, 3, 16, 16), np.nan, np.float32))
    done = run(*quick("--calib", "calib", "--json"))
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
