"""QConv and QMatMul of the library: geometries against NumPy on every instruction set, threads, error sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxptq.ops import specs
from onnxptq.ops.pack import store_weight
from tests.ops.native.conftest import Runner

Array = NDArray[Any]

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[int], list[int], list[int], int]] = {
    # x, weight, strides, pads, dilations, group
    "one tap, many pixels": ((2, 9, 20, 17), (26, 9, 1, 1), [1, 1], [0, 0, 0, 0], [1, 1], 1),
    "one tap, padded": ((1, 5, 6, 6), (3, 5, 1, 1), [1, 1], [1, 0, 2, 1], [1, 1], 1),
    "one tap, strided": ((1, 5, 9, 9), (3, 5, 1, 1), [2, 3], [0, 0, 0, 0], [1, 1], 1),
    "three by three": ((2, 13, 30, 30), (14, 13, 3, 3), [1, 1], [1, 1, 1, 1], [1, 1], 1),
    "wide rows": ((1, 4, 3, 150), (40, 4, 3, 3), [1, 1], [1, 1, 1, 1], [1, 1], 1),
    "narrow rows": ((1, 6, 40, 2), (5, 6, 2, 2), [1, 1], [0, 0, 0, 0], [1, 1], 1),
    "dilated": ((1, 3, 20, 21), (4, 3, 3, 3), [1, 1], [2, 4, 2, 4], [2, 4], 1),
    "strided and uneven": ((2, 6, 11, 14), (8, 3, 3, 2), [2, 3], [0, 2, 1, 0], [2, 1], 2),
    "patches": ((1, 3, 32, 48), (50, 3, 16, 16), [16, 16], [0, 0, 0, 0], [1, 1], 1),
    "depthwise": ((2, 7, 19, 37), (7, 1, 3, 3), [1, 1], [1, 1, 1, 1], [1, 1], 7),
    "depthwise, strided, two outputs each": ((1, 5, 19, 37), (10, 1, 5, 3), [2, 2], [2, 0, 1, 1], [1, 2], 5),
    "depthwise, one pixel": ((1, 3, 4, 4), (3, 1, 3, 3), [1 << 24, 1 << 24], [0, 0, 0, 0], [1, 1], 3),
    "depthwise, huge kernel": ((1, 2, 20, 20), (2, 1, 17, 17), [1, 1], [3, 3, 3, 3], [1, 1], 2),
    "one dimension": ((2, 6, 70), (9, 6, 7), [1], [3, 3], [1], 1),
    "one dimension, strided": ((1, 6, 71), (10, 3, 4), [3], [0, 5], [2], 2),
    "padding alone": ((1, 3, 1, 1), (2, 3, 3, 3), [1, 1], [4, 4, 4, 4], [1, 1], 1),
    "no rows but padding": ((1, 3, 0, 4), (2, 3, 2, 3), [1, 1], [1, 1, 2, 0], [1, 1], 1),
    "deep": ((1, 4000, 3, 3), (3, 4000, 3, 3), [1, 1], [0, 1, 0, 1], [1, 1], 1),
}


def conv(
    name: str, x_bits: int, w_bits: int, scheme: str, rng: np.random.Generator, *, centred: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape, dims, strides, pads, dilations, group = GEOMETRIES[name]
    half = 2 ** (w_bits - 1)
    zero = np.zeros(dims[0], np.int8) if centred else rng.integers(-half, half, dims[0]).astype(np.int8)
    params: tuple[Any, ...] = (np.float32(6 / 2**x_bits), np.uint8(rng.integers(0, 2**x_bits)))
    if scheme == "table":
        values = np.sort(rng.choice(np.arange(-128, 128), 2**x_bits, replace=False)).astype(np.int8)
        params = (values, np.float32(0.02), np.sort(rng.normal(size=2**x_bits - 1)).astype(np.float32))
    inputs = (
        (rng.normal(size=shape) * 2).astype(np.float32),
        store_weight(rng.integers(0, 2**w_bits, dims).astype(np.uint8), w_bits),
        rng.uniform(0.1, 1, dims[0]).astype(np.float32),
        zero,
        rng.normal(size=dims[0]).astype(np.float32),
        *(params if x_bits and scheme != "token" else ()),
    )
    attributes = {
        "x_bits": x_bits,
        "w_bits": w_bits,
        "x_scheme": scheme,
        "shape": list(dims),
        "kernel_shape": list(dims[2:]),
    }
    return inputs, attributes | {"strides": strides, "pads": pads, "dilations": dilations, "group": group}


def close(got: Array, wanted: Array) -> None:
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max(initial=0)))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    ("x_bits", "w_bits", "scheme", "centred"),
    [
        (8, 8, "uniform", False),
        (8, 8, "uniform", True),
        (6, 6, "uniform", False),
        (4, 4, "table", False),
        (8, 8, "token", False),
        (6, 6, "token", True),
        (0, 5, "uniform", False),
    ],
)
def test_convolution(
    run: Runner, isa: str, rng: np.random.Generator, name: str, x_bits: int, w_bits: int, scheme: str, centred: bool
) -> None:
    inputs, attributes = conv(name, x_bits, w_bits, scheme, rng, centred=centred)
    arrays = [numpy_helper.to_array(i) if isinstance(i, onnx.TensorProto) else i for i in inputs]
    wanted = specs()["QConv"].reference(*arrays, **attributes)
    close(run("QConv", *inputs, constants=(1, 2, 3), **attributes), wanted)


def test_weights_need_not_be_constants(run: Runner, isa: str, rng: np.random.Generator) -> None:
    inputs, attributes = conv("strided and uneven", 6, 8, "uniform", rng, centred=False)
    close(run("QConv", *inputs, **attributes), run("QConv", *inputs, constants=(1, 2, 3, 5, 6), **attributes))


@pytest.mark.parametrize(
    ("x_bits", "name"), [(8, "three by three"), (8, "one tap, many pixels"), (0, "three by three"), (8, "depthwise")]
)
def test_threads_change_nothing(run: Runner, isa: str, rng: np.random.Generator, x_bits: int, name: str) -> None:
    inputs, attributes = conv(name, x_bits, 8, "uniform", rng, centred=False)
    one, two = (run("QConv", *inputs, threads=threads, **attributes) for threads in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_groups_of_unlike_weights(run: Runner, isa: str, rng: np.random.Generator) -> None:
    """Codes of the second group alone need wide products on machines without dot products."""
    inputs, attributes = conv("strided and uneven", 8, 8, "uniform", rng, centred=True)
    codes = np.array(inputs[1])
    codes[:4] = np.sign(codes[:4])
    codes[4:] = np.where(codes[4:] < 0, -128, 127)
    wanted = specs()["QConv"].reference(inputs[0], codes, *inputs[2:], **attributes)
    close(run("QConv", inputs[0], codes, *inputs[2:], **attributes), wanted)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": [14, 13, 3]}, "kernel_shape must hold 1 values"),
        ({"shape": [14]}, "shape must give the weight's 3 or 4 dimensions"),
        ({"kernel_shape": [3, 5]}, "kernel_shape must equal the end of shape"),
        ({"strides": [0, 1]}, "strides holds 0"),
        ({"strides": [1]}, "strides must hold 2 values"),
        ({"dilations": [1, -1]}, "dilations holds -1"),
        ({"pads": [1, 1]}, "pads must hold 4 values"),
        ({"pads": [1, 1, -1, 1]}, "pads must not be negative"),
        ({"pads": [1 << 40, 1, 1, 1]}, "beyond"),
        ({"dilations": [40, 1]}, "smaller than the kernel"),
        ({"group": 3}, "do not make 3 groups"),
        ({"group": 2}, "the second of them 26"),
        ({"group": 0}, "do not make 0 groups"),
        ({"shape": [1 << 40, 1 << 30, 3, 3]}, "too large"),
        ({"x_scheme": "row"}, "x_scheme = row"),
        ({"epilogue": "tanh"}, "epilogue = tanh"),
        ({"x_bits": 9}, "must be 2 to 8"),
        ({"w_bits": 0}, "must be 2 to 8"),
        ({"w_bits": 4}, "do not hold 1638 codes of 4 bits"),
    ],
)
def test_malformed_convolutions_are_sentences(
    run: Runner, rng: np.random.Generator, changed: dict[str, Any], words: str
) -> None:
    inputs, attributes = conv("three by three", 8, 8, "uniform", rng, centred=True)
    with pytest.raises(Exception, match=f"onnxptq.QConv 'node'.*{words}"):
        run("QConv", *inputs, constants=(1, 2, 3), **attributes | changed)


def test_malformed_inputs_of_convolutions_are_sentences(run: Runner, rng: np.random.Generator) -> None:
    inputs, attributes = conv("three by three", 4, 8, "uniform", rng, centred=True)
    for at, value, words in [
        (0, inputs[0][0], r"must have 4 dimensions"),
        (0, inputs[0][:, :5], r"the second of them 13"),
        (2, inputs[2][:3], r"w_scale \[3\].* must hold 14 floats"),
        (4, inputs[4][:3], r"bias \[3\] must hold 14 values"),
        (5, np.ones(3, np.float32), "scheme uniform needs one float scale"),
        (5, None, "scheme uniform needs one float scale"),
        (6, np.uint8(99), "zero = 99 is no code of 4 bits"),
    ]:
        with pytest.raises(Exception, match=f"onnxptq.QConv 'node'.*{words}"):
            run("QConv", *inputs[:at], value, *inputs[at + 1 :], **attributes)


PRODUCTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    # a, b, and the shapes of their scales
    "one matrix": ((37, 50), (50, 70), (), ()),
    "heads": ((2, 3, 33, 40), (2, 3, 40, 35), (3, 1, 1), (3, 1, 1)),
    "rows and columns": ((5, 13, 21), (5, 21, 66), (13, 1), (1, 66)),
    "one b for all": ((4, 2, 9, 16), (16, 33), (2, 1, 1), (1, 33)),
    "one a for all": ((9, 16), (4, 2, 16, 33), (9, 1), (4, 1, 1, 1)),
    "both broadcast": ((4, 1, 5, 7), (3, 7, 2), (), ()),
    "scales along the sum": ((3, 6, 20), (3, 20, 9), (20,), (20, 1)),
    "nothing to sum": ((3, 4, 0), (3, 0, 5), (), ()),
    "no matrices": ((0, 4, 6), (0, 6, 5), (), ()),
    "deep": ((2, 40000), (40000, 3), (), ()),
}


def product(
    name: str, bits: tuple[int, int], schemes: tuple[str, str], flip: bool, rng: np.random.Generator
) -> tuple[Any, ...]:
    a, b, *shapes = PRODUCTS[name]
    if flip:
        b = (*[1] * (len(a) - len(b)), *b[:-2], b[-1], b[-2])
        shapes[1] = (*shapes[1][:-2], *reversed(((1, 1) + shapes[1])[-2:])) if len(shapes[1]) < 3 else shapes[1]
    scales: list[Array | None] = []
    for shape, width, scheme in zip(shapes, bits, schemes, strict=True):
        given = scheme == "uniform" and width
        scales.append(np.asarray(rng.uniform(3, 6, shape) / 2**width, np.float32) if given else None)
        scales.append(np.asarray(rng.integers(0, 2**width, shape), np.uint8) if given else None)
    return (rng.normal(size=a).astype(np.float32), rng.normal(size=b).astype(np.float32), *scales)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("schemes", [("uniform", "uniform"), ("token", "token"), ("token", "uniform")])
def test_product(
    run: Runner, isa: str, rng: np.random.Generator, name: str, flip: bool, schemes: tuple[str, str]
) -> None:
    if flip and len(PRODUCTS[name][0]) < len(PRODUCTS[name][1]):
        pytest.skip("a transposed b has a's rank")
    for bits in ((8, 8), (4, 6), (0, 8), (5, 0)):
        inputs = product(name, bits, schemes, flip, rng)
        attributes: dict[str, Any] = {"a_bits": bits[0], "b_bits": bits[1], "transpose_b": int(flip)}
        attributes |= {"a_scheme": schemes[0], "b_scheme": schemes[1]}
        got = run("QMatMul", *inputs, **attributes)
        close(got, specs()["QMatMul"].reference(*inputs, **attributes))
        if isa == "portable" and bits[1]:
            assert got.tobytes() == run("QMatMul", *inputs, threads=2, **attributes).tobytes()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"a_bits": 9}, "a_bits = 9; it must be 2 to 8"),
        ({"b_scheme": "row"}, "b_scheme = row; it must be uniform or token"),
        ({"transpose_b": 2}, "transpose_b must be 0 or 1"),
        ({"transpose_b": 1}, r"a \[37, 50\] and b \[50, 70\] \(transposed\) do not multiply"),
    ],
)
def test_malformed_products_are_sentences(
    run: Runner, rng: np.random.Generator, attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Exception, match=f"onnxptq.QMatMul 'node'.*{words}"):
        run(
            "QMatMul",
            *product("one matrix", (8, 8), ("uniform", "uniform"), False, rng),
            **{"a_bits": 8, "b_bits": 8} | attributes,
        )


def test_malformed_operands_are_sentences(run: Runner, rng: np.random.Generator) -> None:
    inputs = product("heads", (8, 8), ("uniform", "uniform"), False, rng)
    for at, value, words in [
        (0, inputs[0][0, 0, 0], r"a \[40\] must have at least two dimensions"),
        (0, inputs[0][:, :, :, :9], r"a \[2, 3, 33, 9\] and b \[2, 3, 40, 35\] do not multiply"),
        (2, None, r"uniform needs a_scale"),
        (
            4,
            np.ones(7, np.float32),
            r"b_scale \[7\] and b_zero \[3, 1, 1\] must broadcast to b's shape \[2, 3, 40, 35\]",
        ),
        (2, np.ones((5, 1, 1, 1, 1), np.float32), r"must broadcast to a's shape"),
    ]:
        with pytest.raises(Exception, match=f"onnxptq.QMatMul 'node'.*{words}"):
            run("QMatMul", *inputs[:at], value, *inputs[at + 1 :], a_bits=8, b_bits=8)
