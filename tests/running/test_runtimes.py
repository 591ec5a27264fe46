"""One file in several runtimes; those that are not installed say what to do."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.running import runtimes
from tests.targets.test_target import quantize, samples, transformer


def test_models_run_in_turns_and_are_compared() -> None:
    original, ours = runtimes.runs(
        "onnxruntime", [transformer(), quantize("onnxruntime").model], samples()[:2], rounds=3
    )
    assert len(original.outputs) == len(ours.outputs) == 2
    assert len(original.cpu_ms) == len(ours.cpu_ms) == 3
    assert ours.faster(original) == pytest.approx(np.median(np.divide(original.cpu_ms, ours.cpu_ms)))
    a, b = original.outputs[0]["y"], ours.outputs[0]["y"]
    assert 0 < np.square(a - b).sum() < 0.1 * np.square(a).sum()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="runtime openvino: openvino is not installed; run `pip install openvino`"):
        runtimes.require("openvino")
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="runtime web: Node is not installed"):
        runtimes.require("web")
    with pytest.raises(InputError, match="unknown runtime 'tflite'; use one or more of onnxptq, onnxruntime, web"):
        runtimes.require("tflite")


def test_a_model_that_does_not_run_is_one_line() -> None:
    broken = transformer()
    broken.graph.node[0].op_type = "Nothing"
    with pytest.raises(InputError, match="runtime onnxruntime: a model does not run there"):
        runtimes.runs("onnxruntime", [broken], samples()[:1])
