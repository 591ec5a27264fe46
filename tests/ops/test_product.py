"""Integer products are exact, also where onnxruntime sums UINT8 by INT8 in 16 bits (x86 without VNNI)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from numpy.typing import NDArray

from onnxptq.ops import schemes, specs
from onnxptq.ops.pack import store_weight
from onnxptq.ops.product import SAFE_BITS
from onnxptq.ops.scheme import REGISTRY
from onnxptq.ops.table import TableParams, between_cells
from onnxptq.ops.uniform import UniformParams
from tests.ops.conftest import evaluate, model_of

K, N = 4096, 8


def types(op: str, **attributes: Any) -> set[int]:
    """What the operands of integer products are cast to."""
    inputs = [True] * 4 + [False] + [True] * len(REGISTRY[attributes["x_scheme"]].inputs)
    function = specs()[op].function(attributes, inputs, 2)
    casts = {node.output[0]: node for node in function.node if node.op_type == "Cast"}
    weights = [node.input[1] for node in function.node if node.op_type == "MatMulInteger"]
    return {onnx.helper.get_attribute_value(casts[name].attribute[0]) for name in weights}


@pytest.mark.parametrize(("x_bits", "w_bits"), list(itertools.product(range(2, 9), repeat=2)))
def test_int8_weights_are_those_of_which_no_two_products_leave_16_bits(x_bits: int, w_bits: int) -> None:
    chosen = types("QLinear", x_bits=x_bits, w_bits=w_bits, x_scheme="uniform", K=4, N=4)
    fits = 2 * (2**x_bits - 1) * 2 ** (w_bits - 1) < 2**15
    assert fits == (x_bits + w_bits <= SAFE_BITS)
    assert chosen == {onnx.TensorProto.INT8 if fits else onnx.TensorProto.UINT8}


def test_values_of_a_table_count_as_8_bits() -> None:
    common = {"x_bits": 4, "x_scheme": "table", "K": 4, "N": 4}
    assert types("QLinear", w_bits=8, **common) == {onnx.TensorProto.UINT8}
    assert types("QLinear", w_bits=7, **common) == {onnx.TensorProto.INT8}


def extreme(bits: int) -> NDArray[np.uint8]:
    """Weights of K rows: all codes the largest, all the smallest, in turns, in runs of two, four, and at random."""
    rng, top = np.random.default_rng(bits), 2**bits - 1
    rows = np.arange(K)
    columns = [np.full(K, top), np.zeros(K), rows % 2 * top, rows // 2 % 2 * top, rows // 4 % 2 * top]
    columns += [rng.integers(0, 2, K) * top for _ in range(N - len(columns))]
    return np.stack(columns, 1).astype(np.uint8)


def params(scheme: str, bits: int) -> tuple[Any, NDArray[np.float32]]:
    """Parameters with units of 1, and the number of the largest code."""
    if scheme == "uniform":
        return UniformParams(bits, np.float32(1), np.uint8(0)), np.float32(2**bits - 1)
    if scheme == "table":
        values = np.sort(np.resize(np.array([-127, 127, 0, 100], np.int8), 2**bits))
        edges = (values[1:].astype(np.float32) + values[:-1]) / 2
        return between_cells(TableParams(bits, values, np.float32(1), edges)), np.float32(127)
    return schemes()["token"].params(bits), np.float32(2**bits - 1)


@pytest.mark.parametrize("scheme", ["uniform", "table", "token"])
@pytest.mark.parametrize(("x_bits", "w_bits"), [(8, 8), (8, 7), (7, 8), (4, 8), (6, 4)])
def test_long_sums_of_extreme_codes_are_those_of_int32(scheme: str, x_bits: int, w_bits: int) -> None:
    """The float of the exact sum, to the last bit, by the function bodies in onnxruntime and in onnx's evaluator."""
    import onnxruntime as ort

    p, top = params(scheme, x_bits)
    codes, half = extreme(w_bits), 1 << (w_bits - 1)
    zero = np.array([0, -half, half - 1, 1, -1, 0, 0, 0], np.int8)
    x = np.full((5, K), top, np.float32)
    x[1, ::2], x[2, 1::2], x[3, ::4] = 0, 0, 0
    inputs = (x, store_weight(codes, w_bits), np.ones(N, np.float32), zero, None, *p.inputs().values())
    options = {f"x_{name}": value for name, value in p.attributes().items()}
    attributes = {"x_bits": x_bits, "w_bits": w_bits, "x_scheme": scheme, "K": K, "N": N, **options}
    held = schemes()[scheme].fake(x, p)
    wanted = np.rint(held).astype(np.int64) @ (codes.astype(np.int64) - half - zero)
    np.testing.assert_array_equal(held, np.rint(held))
    model = model_of("QLinear", inputs, constants=(1, 2, 3, *range(5, len(inputs))), **attributes)
    feeds = {"i0": x}
    plain = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    inlined = onnx.inliner.inline_local_functions(model)
    for got in (plain, evaluate(inlined, feeds)[0]):
        np.testing.assert_array_equal(got, wanted.astype(np.float32))


@pytest.mark.parametrize("bits", [4, 8])
def test_convolutions_of_extreme_codes_are_those_of_int32(bits: int, run: Any) -> None:
    rng, half = np.random.default_rng(0), 1 << (bits - 1)
    codes = (rng.integers(0, 2, (4, 64, 3, 3)) * (2**bits - 1)).astype(np.uint8)
    codes[0], codes[1] = 2**bits - 1, 0
    zero = np.array([0, half - 1, -half, 1], np.int8)
    x = (rng.integers(0, 2, (1, 64, 6, 6)) * 255).astype(np.float32)
    shape = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    attributes = {"x_bits": 8, "w_bits": bits, "shape": [4, 64, 3, 3], **shape}
    inputs = (x, store_weight(codes, bits), np.ones(4, np.float32), zero, None, np.float32(1), np.uint8(0))
    got = run(
        "QConv", *(np.asarray(i) if isinstance(i, np.generic) else i for i in inputs), constants=(1,), **attributes
    )
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.int64), (3, 3), axis=(1, 2))
    wanted = np.einsum("ihwyx,oiyx->ohw", windows, codes.astype(np.int64) - half - zero.reshape(-1, 1, 1, 1))
    np.testing.assert_array_equal(got[0], wanted.astype(np.float32))


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_unpacked_when_the_session_is_made(bits: int, tmp_path: Path) -> None:
    """In onnxruntime's own graph the weight of the product is a constant, as are the sums of its columns."""
    import onnxruntime as ort

    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (24, N)).astype(np.uint8)
    inputs = (np.ones((3, 24), np.float32), store_weight(codes, bits), np.ones(N, np.float32), np.ones(N, np.int8))
    attributes = {"x_bits": 8, "w_bits": bits, "x_scheme": "token", "K": 24, "N": N}
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    model = model_of("QLinear", inputs, constants=(1, 2, 3), **attributes)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    (product,) = (node for node in graph.node if node.op_type == "MatMulInteger")
    assert product.input[1] in {i.name for i in graph.initializer}
    assert not {"Mod", "ReduceSum"} & {node.op_type for node in graph.node}
