"""Every op of the executor passes ONNX's own node tests, except for the types and modes that it declares missing."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from onnxptq.errors import InputError  # noqa: E402
from onnxptq.learn.executor import OPSET, Executor  # noqa: E402
from onnxptq.learn.kernels import kernels  # noqa: E402

REFUSED = {
    r"bf16|bfloat16|BFLOAT16": "NumPy has no bfloat16",
    r"FLOAT8|FLOAT4|INT2": "element types torch does not compute with, and no model here uses",
    r"equal_string": "strings",
    r"training": "training mode",
    r"scatternd_(multiply|max|min)": "reductions other than addition",
    r"spacetodepth_(dcr|crd)_mode_example$": "an attribute younger than opset 21",
}
"""Tests whose models the executor must refuse with a sentence, and why."""
STRANGE = {"test_identity_sequence": "a sequence is no tensor", "test_identity_opt": "an optional is no tensor"}
OLD = r"test_dropout_random_old|_expanded$"
"""Tests of forms that opset 21 does not know: function bodies written for opsets 13 and 17."""


def arrays(values: Any) -> list[Any]:
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    """ONNX's test cases by op; function bodies, whose nodes are many, under the empty name."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = defaultdict(list)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in collect_testcases():
            nodes = case.model.graph.node
            if case.name not in STRANGE and all(node.domain == "" and node.op_type in kernels() for node in nodes):
                found[nodes[0].op_type if len(nodes) == 1 else ""].append(case)
    return found


def known(case: Any) -> bool:
    """Whether opset 21 knows the nodes; the model is declared to be of that opset where it is older."""
    for opset in case.model.opset_import:
        opset.version = max(opset.version, OPSET)
    try:
        onnx.checker.check_model(case.model)
    except onnx.checker.ValidationError:
        assert re.search(OLD, case.name), case.name
        return False
    return True


@pytest.mark.parametrize("op", ["", *kernels()])
def test_onnx_says_so_too(op: str, cases: dict[str, list[Any]]) -> None:
    passed = 0
    for case in filter(known, cases[op]):
        inputs, outputs = (arrays(values) for values in case.data_sets[0])
        feeds = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
        if any(re.search(pattern, case.name) for pattern in REFUSED):
            with pytest.raises(InputError, match="is not supported"):
                raise AssertionError(f"{case.name} is no longer refused: {Executor(case.model).run(feeds).keys()}")
            continue
        for got, wanted in zip(Executor(case.model).run(feeds).values(), outputs, strict=True):
            assert got.dtype == wanted.dtype, case.name
            assert got.shape == wanted.shape, case.name
            close = 2e-3 if wanted.dtype == np.float16 else 1e-4
            np.testing.assert_allclose(got, wanted, rtol=close, atol=close / 10, err_msg=case.name)
        passed += 1
    assert passed, "ONNX has no test of this op that the executor passes"


def test_every_op_of_a_function_body_is_there() -> None:
    """Of every variant that the tests of our own ops know."""
    from tests.ops.cases import CASES
    from tests.ops.conftest import model_of

    models = (
        model_of(case.op, case.inputs, constants=case.constants, differentiable=True, **case.attributes)
        for case in CASES
    )
    used = {node.op_type for model in models for function in model.functions for node in function.node}
    assert used <= set(kernels())
