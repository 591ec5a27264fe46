"""onnxruntime's dynamic quantization, and the guard that is never below it."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from onnxptq import Quantizer
from onnxptq.pipeline import guard
from onnxptq.pipeline.dynamic import dynamically_quantized
from tests.graph.build import model

NODES = """
    a = Conv <pads = [1, 1, 1, 1]> (x, first)
    large = Mul(a, thousand)
    both = Concat <axis = 1> (a, large)
    b = Conv <pads = [1, 1, 1, 1]> (both, bad)
    c = Relu(b)
    rows = Reshape(c, shape)
    tokens = Transpose <perm = [0, 2, 1]> (rows)
    d = MatMul(tokens, wide)
    e = Relu(d)
    f = MatMul(e, narrow)
    y = MatMul(f, last)
"""


def network() -> onnx.ModelProto:
    """Two convolutions and three linears. The second reads channels a thousand times the others, and ignores them."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    bad = weight(8, 16, 3, 3)
    bad[:, 8:] = 0
    return model(
        f"g (float[1,3,12,12] x) => (float[1,144,4] y) {{ {NODES} }}",
        first=weight(8, 3, 3, 3),
        thousand=np.array(1000, np.float32),
        bad=bad,
        shape=np.array([1, 8, 144]),
        wide=weight(8, 32),
        narrow=weight(32, 8),
        last=weight(8, 4),
    )


def inputs_of_convolutions() -> list[str]:
    rng = np.random.default_rng(1)
    settings = {"selection": "off", "guard.below": "90", "guard.enough": "90", "conv_input.calibrator": "minmax"}
    q = Quantizer(network(), bits="w8a8", settings=settings, threads=1)
    q.calibrate([{"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)} for _ in range(6)])
    return [site.tensor for site in q.plan().sites.values() if site.role == "conv_input"]


def test_products_become_integers_and_convolutions_stay() -> None:
    before = logging.root.manager.disable
    made = dynamically_quantized(network())
    ops = [node.op_type for node in made.graph.node]
    assert ops.count("MatMulInteger") == 3
    assert ops.count("Conv") == 2
    assert logging.root.manager.disable == before


def test_the_guard_is_never_below_it() -> None:
    assert inputs_of_convolutions() == []


def test_without_it_the_limit_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: onnx.ModelProto) -> onnx.ModelProto:
        raise RuntimeError("onnxruntime cannot")

    monkeypatch.setattr(guard, "dynamically_quantized", fails)
    assert inputs_of_convolutions() == ["both"]
