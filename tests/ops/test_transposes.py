"""onnxruntime's optimizers match some ops by name in any domain: our ops stay unchanged between transposes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnxptq.ops import schemes, specs
from onnxptq.running.sessions import session
from tests.ops.cases import CASES
from tests.ops.conftest import Executor, static_model_of

FIRST = {
    case.op: case
    for case in reversed(CASES)
    if isinstance(case.inputs[0], np.ndarray) and case.inputs[0].ndim > 1 and 0 not in case.constants
}
PAIRS = [
    (scheme.name, op) for scheme in schemes().values() if scheme.ops is not None for op in ("Quantize", "Dequantize")
]


def transposed(x: NDArray[Any]) -> NDArray[Any]:
    """The last two axes exchanged."""
    return np.ascontiguousarray(np.swapaxes(x, -1, -2))


def check(
    model: onnx.ModelProto, inputs: dict[str, NDArray[Any]], outputs: tuple[NDArray[Any], ...], executor: Executor
) -> None:
    """Give the first input and read all outputs through transposes."""
    node, first = onnx.NodeProto(), model.graph.input[0].name
    node.CopyFrom(model.graph.node[0])

    def transpose(source: str, result: str, rank: int) -> onnx.NodeProto:
        return helper.make_node("Transpose", [source], [result], perm=[*range(rank - 2), rank - 1, rank - 2])

    node.input[0] = "inside"
    before = transpose(first, "inside", inputs[first].ndim)
    after = [
        transpose(f"raw{i}", o.name, wanted.ndim)
        for i, (o, wanted) in enumerate(zip(model.graph.output, outputs, strict=True))
    ]
    node.output[:] = [f"raw{i}" for i in range(len(outputs))]
    for value in (model.graph.input[0], *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[-1].dim_value, dims[-2].dim_value = dims[-2].dim_value, dims[-1].dim_value
    del model.graph.node[:]
    model.graph.node.extend([before, node, *after])
    got = session(model, executor=executor, threads=1).run(None, {**inputs, first: transposed(inputs[first])})
    for have, want in zip(got, outputs, strict=True):
        np.testing.assert_allclose(
            have, transposed(want), rtol=0, atol=1e-5 * float(np.abs(want.astype(np.float64)).max())
        )


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_pairs(name: str, op: str, executor: Executor) -> None:
    scheme = schemes()[name]
    p = list(scheme.grid(-1.0, 1.0, 4))[-1]
    x = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    codes = scheme.encode(x, p)
    source, wanted = (x, codes) if op == "Quantize" else (codes, scheme.fake(x, p))
    inputs = (source, *p.inputs().values())
    model = static_model_of(
        f"{scheme.ops}{op}Linear", inputs, (wanted,), constants=range(1, len(inputs)), bits=4, **p.attributes()
    )
    check(model, {"i0": source}, (wanted,), executor)


@pytest.mark.parametrize("op", sorted(FIRST))
def test_other_ops(op: str, executor: Executor) -> None:
    case = FIRST[op]
    given = [onnx.numpy_helper.to_array(i) if isinstance(i, onnx.TensorProto) else i for i in case.inputs]
    results = specs()[op].reference(*given, **case.attributes)
    wanted = results if isinstance(results, tuple) else (results,)
    model = static_model_of(op, case.inputs, wanted, constants=case.constants, **case.attributes)
    inputs = {f"i{i}": v for i, v in enumerate(case.inputs) if isinstance(v, np.ndarray) and i not in case.constants}
    check(model, inputs, wanted, executor)
