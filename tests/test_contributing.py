"""The guides of CONTRIBUTING.md, followed word for word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from onnxptq import Quantizer
import onnxptq.{package} as package
package.__path__.append({folder!r})
from onnxptq.passes import passes
q = Quantizer({model!r}, recipe={recipe!r}, bits="w8a8", threads=1)
q.calibrate({samples!r})
result = q.quantize()
print([c.what for c in result.report.changes], sorted({{s.calibrator for s in result.report.sites}}))
"""


def example(kind: str) -> str:
    """The code block of CONTRIBUTING.md that is marked with a word."""
    found = re.search(rf"```\w+ {kind}\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert found, kind
    return found[1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x -> Neg -> Neg -> MatMul -> MatMul."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 1, (8, 8)).astype(np.float32) for _ in range(2)]
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["a"], name="n1"),
            helper.make_node("Neg", ["a"], ["b"], name="n2"),
            helper.make_node("MatMul", ["b", "w0"], ["c"], name="m0"),
            helper.make_node("Relu", ["c"], ["d"], name="r"),
            helper.make_node("MatMul", ["d", "w1"], ["y"], name="m1"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "sample.npz", x=rng.normal(0, 1, (4, 8)).astype(np.float32))
    return path


def followed(model: Path, package: str, recipe: str) -> str:
    """What a run with the new file in place prints: a process of its own, since classes register for good."""
    text = SCRIPT.format(
        package=package,
        folder=str(model.parent / "new"),
        model=str(model),
        recipe=recipe,
        samples=str(model.parent / "sample.npz"),
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recipe(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(example("recipe"))
    assert "percentile" in followed(model, "passes", str(path))


def test_a_calibrator(model: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "halfrange.py").write_text(example("calibrator"))
    path = tmp_path / "mine.toml"
    path.write_text('description = "half"\n[activations]\ncalibrator = "halfrange"\n')
    assert "halfrange" in followed(model, "calibrators", str(path))


def test_a_weight_calibrator(model: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "halfgrid.py").write_text(example("weights"))
    path = tmp_path / "mine.toml"
    path.write_text('description = "half"\n[weights]\ncalibrator = "halfgrid"\n')
    assert "halfgrid" in followed(model, "calibrators", str(path))


def test_a_pass(model: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "double_negation.py").write_text(example("pass"))
    path = tmp_path / "mine.toml"
    path.write_text('description = "folded"\npasses = ["double-negation"]\n')
    assert "two negations folded" in followed(model, "passes", str(path))
