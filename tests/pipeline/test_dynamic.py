"""onnxruntime's dynamic quantization, and the guard that is never below it."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from onnxptq import Quantizer
from onnxptq.pipeline import guard
from onnxptq.pipeline.dynamic import dynamically_quantized
from tests.pipeline.test_guard import network as guarded
from tests.pipeline.test_guard import samples

TAIL = """
    rows = Reshape(c, shape)
    tokens = Transpose <perm = [0, 2, 1]> (rows)
    d = MatMul(tokens, wide)
    e = Relu(d)
    f = MatMul(e, narrow)
    y = MatMul(f, last)
"""
CONSTANTS = {"shape": np.array([1, 8, 144]), "wide": (8, 32), "narrow": (32, 8), "last": (8, 4)}


def network() -> onnx.ModelProto:
    """Two convolutions, the second spoiled, and three linears."""
    return guarded(spoiled=True, tail=TAIL, output="1,144,4", constants=CONSTANTS)


def inputs_of_convolutions() -> list[str]:
    settings = {"selection": "off", "guard.below": "90", "guard.enough": "90", "conv_input.calibrator": "minmax"}
    q = Quantizer(network(), bits="w8a8", settings=settings, threads=1)
    q.calibrate(samples())
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
