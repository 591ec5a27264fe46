"""Format ``qdq`` is written so that onnxruntime multiplies in integers, exactly on every CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxptq import Quantizer
from onnxptq.running.metrics import decibels
from onnxptq.running.sessions import session
from tests.graph.build import model

RNG = np.random.default_rng(0)
WIDTH = 64


def weight(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(0, 0.2, shape).astype(np.float32)


def mlp(rank: int, *, fixed: bool) -> onnx.ModelProto:
    """Three linears in a row with biases, on a matrix or on a batch of them."""
    rows = ", ".join(["2", "5"][-(rank - 1) :]) if fixed else ", ".join(["B", "T"][-(rank - 1) :])
    return model(
        f"""g (float[{rows}, {WIDTH}] x) => (float[{rows}, {WIDTH}] y) {{
        a = MatMul(x, w1) b = Add(a, b1) c = Tanh(b) d = MatMul(c, w2) e = Add(b2, d)
        f = Sigmoid(e) h = MatMul(f, w3) y = Add(h, b3)
        }}""",
        **{f"w{i}": weight(WIDTH, WIDTH) for i in (1, 2, 3)},
        **{f"b{i}": weight(WIDTH) for i in (1, 2, 3)},
    )


def cnn() -> onnx.ModelProto:
    """Three convolutions, of which the first two are read by the next."""
    return model(
        """g (float[1, 3, 12, 12] x) => (float[1, 8, 12, 12] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) b = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(b, w2, b2) d = Relu(c)
        y = Conv<pads = [1, 1, 1, 1]>(d, w3, b3)
        }""",
        w1=weight(8, 3, 3, 3),
        w2=weight(8, 8, 3, 3),
        w3=weight(8, 8, 3, 3),
        **{f"b{i}": weight(8) for i in (1, 2, 3)},
    )


def samples(shape: tuple[int, ...]) -> list[dict[str, NDArray[Any]]]:
    source = np.random.default_rng(1)
    return [{"x": source.normal(size=shape).astype(np.float32)} for _ in range(4)]


def quantize(proto: onnx.ModelProto, shape: tuple[int, ...], bits: str = "w8a8", **settings: Any) -> onnx.ModelProto:
    include = [".*"]
    quantizer = Quantizer(
        proto, recipe="minmax", bits=bits, threads=1, include=include, settings=settings, format="qdq"
    )
    quantizer.calibrate(samples(shape))
    made: onnx.ModelProto = quantizer.quantize().model
    return made


def executed(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The ops of onnxruntime's own optimised graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(
    ("rank", "fixed", "bits"), [(3, True, "w8a8"), (3, False, "w8a8"), (2, True, "w7a8"), (2, False, "w8a6")]
)
def test_linears_run_as_integer_products(rank: int, fixed: bool, bits: str, tmp_path: Path) -> None:
    shape = (2, 5, WIDTH)[3 - rank :]
    ops = executed(quantize(mlp(rank, fixed=fixed), shape, bits), tmp_path)
    assert ops["MatMulIntegerToFloat"] == 3
    assert not ops["Gemm"] + ops["MatMul"] + ops["FusedMatMul"]


def test_convolutions_whose_outputs_are_coded_run_as_integer_products(tmp_path: Path) -> None:
    """The last one's output is no input of a coded op, so it has no range and stays a float Conv."""
    ops = executed(quantize(cnn(), (1, 3, 12, 12)), tmp_path)
    assert (ops["QLinearConv"], ops["Conv"] + ops["FusedConv"]) == (2, 1)


@pytest.mark.parametrize("rank", [2, 3])
def test_optimised_graphs_compute_what_the_file_says(rank: int) -> None:
    """8-bit codes on both sides, of which INT8 by UINT8 products saturate on x86 without VNNI."""
    shape = (2, 5, WIDTH)[3 - rank :]
    proto = mlp(rank, fixed=True)
    for initializer in proto.graph.initializer:
        if initializer.name.startswith("w"):  # all weights at the ends of their range
            array = np.abs(onnx.numpy_helper.to_array(initializer))
            array[:] = np.where(array > np.median(array), array.max(), array.max() * 0.9)
            array[0] = -array.max() / 8
            initializer.CopyFrom(onnx.numpy_helper.from_array(array, initializer.name))
    made = quantize(proto, shape)
    feeds = {"x": np.full(shape, 3, np.float32)}
    runs = [session(made, executor="function", threads=1, optimize=o).run(None, feeds)[0] for o in (True, False)]
    assert decibels(float(np.square(runs[1]).sum()), float(np.square(runs[0] - runs[1]).sum())) > 60


@pytest.mark.parametrize("symmetric", [True, False])
def test_affine_8_bit_weights_are_uint8_beside_8_bit_activations(symmetric: bool) -> None:
    made = quantize(mlp(3, fixed=True), (2, 5, WIDTH), **{"weights.symmetric": symmetric})
    kinds = {i.data_type for i in made.graph.initializer if list(i.dims) == [WIDTH, WIDTH]}
    assert kinds == {onnx.TensorProto.INT8 if symmetric else onnx.TensorProto.UINT8}
