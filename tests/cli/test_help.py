from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from onnxptq.cli import COMMANDS, main, values
from tests.cli.conftest import Run

GOLDEN = Path(__file__).parent / "golden"
OURS = (
    "bench",
    "check",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "inspect",
    "library",
    "package",
    "quantize",
    "sensitivity",
    "table",
)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse prints help otherwise")
@pytest.mark.parametrize("name", ["onnxptq", *OURS])
def test_help_is_as_reviewed(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = run(*([] if name == "onnxptq" else [name]), "--help")
    assert (done.code, done.err) == (0, "")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(done.out)
    assert done.out == golden.read_text()


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert all(f"    {name} " in said for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0


def test_choices_are_those_of_the_parts() -> None:
    from typing import get_args

    from onnxptq.calibration.sources.images import PREPROCESS
    from onnxptq.running.sessions import Executor

    assert set(values.PREPROCESSING) == set(PREPROCESS)
    assert set(values.EXECUTORS) == set(get_args(Executor))


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512MiB", 512 * 2**20), ("1.5 gb", 1_500_000_000), ("123", 123), ("2B", 2)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.size(text) == size


def test_values() -> None:
    assert values.shape("x=1,20") == ("x", (1, 20))
    assert values.pair("a.b=c=d") == ("a.b", "c=d")
    assert values.named_regex("text=^bert") == ("text", "^bert")
    assert values.positive("12") == 12
