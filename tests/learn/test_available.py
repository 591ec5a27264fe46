"""The parts of this package that work without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxptq import learn


def test_asking_loads_no_torch() -> None:
    code = (
        "import sys, onnxptq.learn, onnxptq.calibration.gradients; onnxptq.learn.available(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    assert learn.available()
    monkeypatch.setattr(learn, "find_spec", lambda name: None)
    assert not learn.available()
