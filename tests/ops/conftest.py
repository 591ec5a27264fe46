"""Runs ops in onnxruntime, by function body or native kernel, from one session per variant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxptq.ops import DOMAIN, VERSION, library, schemes, specs
from onnxptq.ops.body import Body
from onnxptq.running.sessions import session

Array = NDArray[Any]


class GatherElements(OpRun):  # type: ignore[misc]
    """GatherElements for onnx's evaluator, whose own takes at most 64 entries, as numpy.choose does."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        return (np.take_along_axis(data, indices, axis=axis or 0),)


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model in onnx's own evaluator."""
    found: list[Array] = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, dict(feeds))
    return found


Input = Array | onnx.TensorProto | None
Executor = Literal["function", "native"]
NATIVE = pytest.param(
    "native",
    marks=[
        pytest.mark.native,
        pytest.mark.skipif(library.path() is None, reason="no native library: build it or set ONNXPTQ_LIBRARY"),
    ],
)


@pytest.fixture(params=["function", NATIVE])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Function bodies, and native kernels where there are any."""
    chosen: Executor = request.param
    return chosen


def element_type(value: Array | onnx.TensorProto) -> int:
    return value.data_type if isinstance(value, onnx.TensorProto) else helper.np_dtype_to_tensor_dtype(value.dtype)


def model_of(
    op: str,
    inputs: Sequence[Input],
    *,
    constants: Sequence[int] = (),
    rank: int | None = None,
    opset: int = 21,
    differentiable: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; inputs at the positions ``constants`` are initializers, the others take any shape."""
    spec = specs()[op]
    names = [None if value is None else f"i{i}" for i, value in enumerate(inputs)]
    first = inputs[0]
    rank = rank if rank is not None else first.ndim if isinstance(first, np.ndarray) else 0
    outputs = [f"o{i}" for i in range(len(spec.outputs))]
    options = {"rank": rank, "opset": opset, "differentiable": differentiable}
    node, function = spec.call(names, outputs, name="node", **options, **attributes)
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info(o) for o in outputs])
    for i, value in enumerate(inputs):
        if value is None:
            continue
        if i in constants:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(
                value
                if isinstance(value, onnx.TensorProto)
                else onnx.numpy_helper.from_array(np.ascontiguousarray(value))
            )
            tensor.name = f"i{i}"
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(f"i{i}", element_type(value), None))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function])


def static_model_of(op: str, inputs: Sequence[Input], outputs: Sequence[Array], **options: Any) -> onnx.ModelProto:
    """``model_of`` with the shapes of these inputs and outputs, which the checker requires."""
    model = model_of(op, inputs, **options)
    values = {f"i{i}": v for i, v in enumerate(inputs)} | {f"o{i}": v for i, v in enumerate(outputs)}
    for given in (*model.graph.input, *model.graph.output):
        value = values[given.name]
        assert isinstance(value, np.ndarray)
        given.CopyFrom(helper.make_tensor_value_info(given.name, element_type(value), value.shape))
    return model


class Runner:
    """``run("Op", x, scale, bits=4)``; sessions are kept by variant."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._sessions: dict[Any, ort.InferenceSession] = {}

    def __call__(self, op: str, *inputs: Input, constants: Sequence[int] = (), **attributes: Any) -> Any:
        model = model_of(op, inputs, constants=constants, **attributes).SerializeToString(deterministic=True)
        if model not in self._sessions:
            self._sessions[model] = session(model, executor=self.executor, threads=1)
        feeds = {f"i{i}": value for i, value in enumerate(inputs) if i not in constants and value is not None}
        results = self._sessions[model].run(None, feeds)
        return results[0] if len(results) == 1 else tuple(results)


@functools.cache
def _runner(executor: Executor) -> Runner:
    return Runner(executor)


@pytest.fixture
def run(executor: Executor) -> Runner:
    """Runs single ops with the executor of the test."""
    return _runner(executor)


@functools.cache
def _scheme_session(
    name: str, bits: int, options: tuple[tuple[str, Any], ...], executor: Executor
) -> ort.InferenceSession:
    """x, p0.. -> faked [, codes, decoded]: the operand of a fused op, and the op pair if there is one."""
    scheme = schemes()[name]
    body = Body()
    faked = scheme.fake_body(body, "x", scheme.inputs, bits, dict(options))
    text = f'<opset_import: ["" : 21], domain: "test"> Fake (x{"".join(f", {i}" for i in scheme.inputs)}) => (faked)'
    fake = parser.parse_function(f"{text} {{ {body} faked = Identity ({faked}) }}")
    nodes, functions, outputs = (
        [helper.make_node("Fake", ["x", *scheme.inputs], ["faked"], domain="test")],
        [fake],
        ["faked"],
    )
    if scheme.ops is not None:
        for op, source, result in (("Quantize", "x", "codes"), ("Dequantize", "codes", "decoded")):
            node, function = specs()[f"{scheme.ops}{op}Linear"].call(
                [source, *scheme.inputs], [result], bits=bits, **dict(options)
            )
            nodes.append(node)
            functions.append(function)
            outputs.append(result)
    types = (
        dict(zip(scheme.inputs, specs()[f"{scheme.ops}QuantizeLinear"].types[1:], strict=True))
        if scheme.ops is not None
        else {}
    )
    kinds = {"float": onnx.TensorProto.FLOAT, "uint8": onnx.TensorProto.UINT8, "int8": onnx.TensorProto.INT8}
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)]
    inputs += [helper.make_tensor_value_info(i, kinds[types[i]], None) for i in scheme.inputs]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(o) for o in outputs])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION), helper.make_opsetid("test", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    return session(model, executor=executor, threads=1)


SchemeRunner = Callable[[str, Array, Any], Mapping[str, Array]]


def _scheme_runner(executor: Executor) -> SchemeRunner:
    def call(name: str, x: Array, params: Any) -> Mapping[str, Array]:
        opened = _scheme_session(name, params.bits, tuple(params.attributes().items()), executor)
        results = opened.run(None, {"x": x, **params.inputs()})
        return dict(zip([o.name for o in opened.get_outputs()], results, strict=True))

    return call


@pytest.fixture
def run_scheme(executor: Executor) -> SchemeRunner:
    """``run_scheme(name, x, params)`` -> faked, and codes and decoded where the scheme has an op pair."""
    return _scheme_runner(executor)


@pytest.fixture(scope="session")
def run_scheme_each() -> list[SchemeRunner]:
    """``run_scheme`` for every available executor."""
    return [_scheme_runner("function")] + ([_scheme_runner("native")] if library.path() is not None else [])
