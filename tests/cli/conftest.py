from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.cli import main


def vision_model(width: int = 16, *, inner: int = 32) -> onnx.ModelProto:
    """Patches, one attention of two heads, two linears with a ReLU between, and a mask head."""
    rng = np.random.default_rng(0)
    side, heads = 8, 2
    tokens = side * side

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    held = {
        "patch": rng.normal(size=(width, 3, 2, 2)).astype(np.float32) * 0.3,
        **{f"w{name}": weight(width, width) for name in "qkvo"},
        "w1": weight(width, inner),
        "w2": weight(inner, width),
        "b2": weight(width),
        "head": rng.normal(size=(1, width, 1, 1)).astype(np.float32),
        "rows": np.array([1, width, tokens]),
        "split": np.array([1, tokens, heads, width // heads]),
        "join": np.array([1, tokens, width]),
        "map": np.array([1, width, side, side]),
        "scale": np.float32((width // heads) ** -0.5),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "patch"], ["p0"], "patch", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["p0", "rows"], ["p1"]),
        node("Transpose", ["p1"], ["x"], perm=[0, 2, 1]),
    ]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(node("MatMul", ["x", f"w{name}"], [f"{name}0"], f"project_{name}"))
        nodes.append(node("Reshape", [f"{name}0", "split"], [f"{name}1"]))
        nodes.append(node("Transpose", [f"{name}1"], [name], perm=perm))
    nodes += [
        node("MatMul", ["q", "k"], ["s0"], "scores"),
        node("Mul", ["s0", "scale"], ["s1"]),
        node("Softmax", ["s1"], ["a"], "softmax", axis=-1),
        node("MatMul", ["a", "v"], ["c0"], "context"),
        node("Transpose", ["c0"], ["c1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["c1", "join"], ["c2"]),
        node("MatMul", ["c2", "wo"], ["c3"], "project_o"),
        node("Add", ["c3", "x"], ["y"]),
        node("MatMul", ["y", "w1"], ["h0"], "first"),
        node("Relu", ["h0"], ["h1"]),
        node("MatMul", ["h1", "w2"], ["h2"], "second"),
        node("Add", ["h2", "b2"], ["h3"]),
        node("Transpose", ["h3"], ["m0"], perm=[0, 2, 1]),
        node("Reshape", ["m0", "map"], ["m1"]),
        node("Conv", ["m1", "head"], ["masks"], "head", kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 2 * side, 2 * side])],
        [helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test, with a model in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONNXPTQ_DEBUG", raising=False)
    onnx.save(vision_model(), tmp_path / "vision.onnx")
    return tmp_path


def listing(folder: Path) -> dict[str, int]:
    """Every file under a folder, with its size."""
    return {
        str(p.relative_to(folder)): p.stat().st_size
        for p in sorted(folder.rglob("*"))
        if p.is_file() or not any(p.iterdir())
    }


@dataclass(frozen=True)
class Done:
    """The result of a command line."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; return its output, native code's included."""

    def call(*argv: str | Path) -> Done:
        capfd.readouterr()
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def refuses(run: Run, folder: Path) -> Callable[..., str]:
    """Run a command line that must fail for bad input: exit code 2, one line on stderr, no file made or changed."""

    def call(*argv: str | Path) -> str:
        before = listing(folder)
        done = run(*argv)
        lines = done.err.splitlines()
        assert done.code == 2, done
        assert len(lines) == 1, done.err
        assert lines[0].startswith("onnxptq: ")
        assert not any(word in lines[0] for word in ("Traceback", "Error:", "errno", "Errno"))
        assert listing(folder) == before
        return lines[0].removeprefix("onnxptq: ")

    return call


def quick(*more: str | Path) -> Sequence[str | Path]:
    """A fast quantize of the folder's model."""
    return ("quantize", "vision.onnx", "--recipe", "minmax", "--samples", "2", "--threads", "1", *more)
