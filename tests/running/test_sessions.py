from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from onnxptq.errors import SpeedWarning
from onnxptq.ops import library
from onnxptq.running import sessions

MODEL = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Neg(x) }'


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[onnx.ModelProto]:
    """A model, on a machine that could have the library but has not."""
    monkeypatch.setattr(library, "path", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv("ONNXPTQ_PURE", raising=False)
    sessions._warn_without_library.cache_clear()
    yield parser.parse_model(MODEL)
    sessions._warn_without_library.cache_clear()


def test_a_missing_library_is_said_once(bare: onnx.ModelProto) -> None:
    with pytest.warns(SpeedWarning, match="no compiled op library"):
        sessions.session(bare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sessions.session(bare)


def test_a_chosen_executor_is_no_surprise(bare: onnx.ModelProto) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sessions.session(bare, executor="function")


@pytest.mark.parametrize(("variable", "machine"), [("1", "x86_64"), ("0", "riscv64")])
def test_a_library_left_out_or_impossible(
    bare: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, variable: str, machine: str
) -> None:
    monkeypatch.setenv("ONNXPTQ_PURE", variable)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sessions.session(bare)


def test_the_command_line_shows_it() -> None:
    code = (
        "import platform, warnings; platform.machine = lambda: 'x86_64'\n"
        "from onnxptq.ops import library; library.path = lambda: None\n"
        "from onnxptq import cli; cli.main(['--version'])\n"
        "from onnxptq.running import sessions; sessions._warn_without_library()\n"
        "warnings.warn('other', UserWarning)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": "", "PYTHONPATH": "."}
    )
    assert done.stderr == f"onnxptq: warning: {sessions.WITHOUT_LIBRARY}\n"


def test_options_of_the_caller_are_taken(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.enable_mem_pattern, options.log_severity_level = True, 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    made = sessions.session(parser.parse_model(MODEL), options=options, threads=1)
    kept = made.get_session_options()
    assert (kept.enable_mem_pattern, kept.log_severity_level, kept.intra_op_num_threads) == (True, 3, 1)
    assert (tmp_path / "optimised.onnx").exists()
