"""Randomly malformed nodes in onnxruntime itself: an error with a sentence, or a result; never a crash.

The library's own test does the same ten thousand times for every op, under sanitizers: `make test-native`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.normal(size=shape), np.float32)


def nodes(rng: np.random.Generator) -> dict[str, tuple[list[Array | None], dict[str, Any]]]:
    """A valid node of every kind: inputs, attributes."""
    scale, zero = np.float32(0.05), np.uint8(7)
    weight = [rng.integers(-128, 128, (6, 4)).astype(np.int8), np.full(4, 0.01, np.float32), np.zeros(4, np.int8)]
    kernel = [rng.integers(-128, 128, (4, 2, 3, 3)).astype(np.int8), *weight[1:]]
    linear = {"x_bits": 4, "w_bits": 8, "x_scheme": "uniform", "w_group": 0, "epilogue": "none", "K": 6, "N": 4}
    conv: dict[str, Any] = {
        "x_bits": 8,
        "w_bits": 8,
        "x_scheme": "uniform",
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
    }
    conv |= {"strides": [1, 1], "dilations": [1, 1], "group": 1, "shape": [4, 2, 3, 3]}
    edges = np.sort(floats(rng, 15))
    attention: dict[str, Any] = {
        "q_bits": 8,
        "k_bits": 8,
        "v_bits": 8,
        "p_bits": 8,
        "qk_scheme": "token",
        "softmax_scheme": "row",
        "scale": 0.25,
        "heads": 2,
    }
    return {
        "UniformQuantizeLinear": ([floats(rng, 3, 5), scale, zero], {"bits": 4}),
        "RowRange": ([floats(rng, 3, 5)], {"bits": 4}),
        "DequantizeWeight": (list(weight), {"bits": 8, "axis": 1, "group": 0, "shape": [6, 4]}),
        "LogBaseQuantizeLinear": (
            [floats(rng, 9), np.sort(floats(rng, 16))[::-1].copy(), edges[::-1].copy()],
            {"bits": 4},
        ),
        "TableQuantizeLinear": ([floats(rng, 9), np.arange(16, dtype=np.int8), scale, edges], {"bits": 4}),
        "OutlierRetainedQuantizeLinear": (
            [floats(rng, 9), np.ones(1, np.float32), np.ones(2, np.float32), np.zeros(2, np.uint8)],
            {"bits": 4, "groups": 2},
        ),
        "QLinear": ([floats(rng, 2, 6), *weight, floats(rng, 4), scale, zero], linear),
        "QConv": ([floats(rng, 1, 2, 5, 5), *kernel, None, scale, zero], conv),
        "QMatMul": (
            [floats(rng, 2, 3, 4), floats(rng, 2, 4, 5), scale, zero, scale, zero],
            {"a_bits": 8, "b_bits": 8, "a_scheme": "uniform", "b_scheme": "uniform", "transpose_b": 0},
        ),
        "QAttention": (
            [floats(rng, 2, 3, 4)] * 3 + [None] * 8 + [np.ones(1, np.float32), np.zeros(1, np.uint8)],
            attention,
        ),
    }


def spoil(rng: np.random.Generator, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    """Changes one attribute or one input."""
    if rng.random() < 0.5:
        name = str(rng.choice(list(attributes)))
        values: list[Any] = [
            None,
            -1,
            0,
            3,
            9,
            2**31,
            2**62,
            -(2**63),
            0.5,
            "x",
            "token",
            "%s%n",
            [],
            [1, 2, 3],
            [2**40] * 4,
        ]
        value = values[int(rng.integers(len(values)))]
        if value is None or value == []:
            del attributes[name]
        else:
            attributes[name] = value
        return
    index = int(rng.integers(len(inputs)))
    x = inputs[index]
    changes: list[Any] = [None]
    if x is not None:
        x = np.asarray(x)
        changes += [
            x.ravel()[:1],
            np.repeat(x.ravel(), 3),
            x.reshape((1, *x.shape)),
            x.ravel()[:0],
            x.reshape((1,) * 12 + x.shape),
        ]
        changes += [x.astype(t) for t in (np.float32, np.int8, np.uint8, np.int64)]
    inputs[index] = changes[int(rng.integers(len(changes)))]


@pytest.mark.parametrize("op", nodes(np.random.default_rng(0)))
def test_wrong_nodes_are_refused_or_run(run: Any, op: str) -> None:
    errors = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        inputs, attributes = nodes(rng)[op]
        for _ in range(int(rng.integers(1, 3))):
            if attributes:
                spoil(rng, inputs, attributes)
        constants = tuple(i for i in range(1, len(inputs)) if rng.random() < 0.5)
        try:
            run(op, *inputs, constants=constants, outputs=2 if op == "RowRange" else 1, **attributes)
        except Exception as error:
            errors.append(str(error))
    assert len(errors) > 10, "the changes hardly ever make a node wrong"
    assert all(len(e) > 30 for e in errors)


def test_valid_nodes_run(run: Any, rng: np.random.Generator) -> None:
    for op, (inputs, attributes) in nodes(rng).items():
        run(op, *inputs, outputs=2 if op == "RowRange" else 1, **attributes)


def test_outlier_codes_of_other_groups_than_said(run: Any) -> None:
    """The type of the codes comes from the attribute: 4 groups written as bytes would run over the end."""
    x, thresholds = np.ones((64, 64), np.float32), np.arange(1, 4, dtype=np.float32)
    inputs = x, thresholds, np.ones(4, np.float32), np.zeros(4, np.uint8)
    with pytest.raises(Exception, match="groups = 1, but there are 4 scales"):
        run("OutlierRetainedQuantizeLinear", *inputs, bits=7, groups=1)
    assert run("OutlierRetainedQuantizeLinear", *inputs, bits=7, groups=4).dtype == np.uint16
