"""The executor: values fed and fetched at any tensor, gradients, memory, placement, and refused graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, parser

torch = pytest.importorskip("torch")

from onnxptq.errors import InputError  # noqa: E402
from onnxptq.graph.canonical import canonicalise  # noqa: E402
from onnxptq.graph.load import load  # noqa: E402
from onnxptq.learn.executor import Executor  # noqa: E402
from onnxptq.learn.kernels import kernels  # noqa: E402
from onnxptq.ops import schemes  # noqa: E402
from tests.ops.conftest import model_of  # noqa: E402

CHAIN = """
<ir_version: 10, opset_import: ["" : 21]>
chain (float[N, 3] x) => (float[N, 2] y, float[N, 3] z)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}>
{
    a = Exp(x)
    b = Relu(a)
    y = MatMul(b, w)
    z = Neg(x)
}
"""


def chain() -> onnx.ModelProto:
    return parser.parse_model(CHAIN)


def test_inner_values_and_constants_can_be_replaced() -> None:
    executor = Executor(chain())
    b, w = torch.tensor([[1.0, 0.0, 2.0]]), torch.ones(3, 2, requires_grad=True)
    found = executor({"b": b, "w": w}, ["y"])
    assert found["y"].tolist() == [[3.0, 3.0]]
    found["y"].sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]


def test_outputs_may_be_inner_values_inputs_and_constants() -> None:
    x = np.zeros((1, 3), np.float32)
    found = Executor(chain()).run({"x": x}, ["a", "x", "w"])
    assert found["a"].tolist() == [[1.0, 1.0, 1.0]]
    assert found["x"] is not x
    assert found["w"].shape == (3, 2)


def test_only_what_is_wanted_runs() -> None:
    with pytest.raises(InputError, match="nothing makes value 'x'"):
        Executor(chain())({"b": np.ones((1, 3), np.float32)})
    assert list(Executor(chain()).run({"b": np.ones((1, 3), np.float32)}, ["y"])) == ["y"]


def test_hooks_see_each_value_once_and_change_it() -> None:
    calls = []

    def twice(x: Any) -> Any:
        calls.append(tuple(x.shape))
        return 2 * x

    x = np.zeros((1, 3), np.float32)
    found = Executor(chain())({"x": x}, ["y"], hooks={"a": twice, "w": twice, "x": twice})
    assert sorted(calls) == [(1, 3), (1, 3), (3, 2)]
    assert found["y"].tolist() == [[36.0, 48.0]]


@pytest.mark.parametrize("kept", [True, False])
def test_values_are_let_go_after_their_last_use(kept: bool) -> None:
    alive: list[bool] = []
    held: list[Any] = []

    def remember(x: Any) -> Any:
        held.append(weakref.ref(x))
        return x

    def count(x: Any) -> Any:
        gc.collect()
        alive.append(held[0]() is not None)
        return x

    Executor(chain())(
        {"x": np.ones((1, 3), np.float32)}, ["y", "a"] if kept else ["y"], hooks={"a": remember, "y": count}
    )
    assert alive == [kept]


@pytest.mark.parametrize("name", ["vit", "swin", "sam-encoder", "lavt"])
def test_gradient_is_that_of_the_module_the_model_was_made_of(name: str, minis: Callable[..., Any]) -> None:
    from onnxptq.models import mini

    exported, module = minis(name), mini.model(name)
    source = np.random.default_rng(0)
    executor = Executor(canonicalise(load(exported.path)))
    feeds = {key: torch.tensor(value) for key, value in exported.feeds.items()}
    gradients = []
    for run in (lambda given: executor(given)[executor.outputs[0]], lambda given: module(*given.values())):
        image = feeds["image"].clone().requires_grad_()
        output = run({**feeds, "image": image})
        output = output[0] if isinstance(output, tuple) else output
        source = np.random.default_rng(0)
        output.backward(torch.tensor(source.normal(size=tuple(output.shape)), dtype=torch.float32))
        assert image.grad is not None
        gradients.append(image.grad.numpy())
    assert np.abs(gradients[1]).max() > 0
    assert np.abs(gradients[0] - gradients[1]).max() <= 1e-4 * np.abs(gradients[1]).max()


def linear(scheme: str, p: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """x coded by a scheme, times the identity."""
    codes = np.where(np.eye(4), 1, 0).astype(np.int8)
    inputs = (
        np.zeros((1, 4), np.float32),
        codes,
        np.ones(4, np.float32),
        np.zeros(4, np.int8),
        None,
        *p.inputs().values(),
    )
    options = {f"x_{key}": value for key, value in p.attributes().items()}
    attributes = {"x_bits": p.bits, "w_bits": 8, "x_scheme": scheme, "K": 4, "N": 4, **options}
    model = model_of("QLinear", inputs, constants=(1,), differentiable=True, **attributes)
    return model, {f"i{i}": value for i, value in enumerate(inputs) if value is not None and i > 1}


@pytest.mark.parametrize(
    ("through", "wanted"), [((), [0, 0, 0, 0]), (("Round",), [0, 1, 1, 0]), (("Round", "Clip"), [1, 1, 1, 1])]
)
def test_straight_through_gradients_of_a_function_body(through: tuple[str, ...], wanted: list[float]) -> None:
    p = list(schemes()["uniform"].grid(-1.0, 1.0, 4))[-1]
    model, feeds = linear("uniform", p)
    x = torch.tensor([[-5.0, -0.31, 0.52, 5.0]], requires_grad=True)
    plain = Executor(model).run({**feeds, "i0": x.detach().numpy()})["o0"]
    scale = torch.tensor(float(p.scale), requires_grad=True)
    y = Executor(model, straight_through=through)({**feeds, "i0": x, "i5": scale})["o0"]
    np.testing.assert_array_equal(y.detach().numpy(), plain)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [wanted], atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "passed"), [(name, name not in ("table", "log_base")) for name in schemes() if name != "row"]
)
def test_straight_through_gradients_by_scheme(scheme: str, passed: bool) -> None:
    """Rounded codes pass gradients, those that are counted edges are steps."""
    p = list(schemes()[scheme].grid(-1.0, 1.0, 6))[-1]
    model, feeds = linear(scheme, p)
    x = torch.tensor([[0.11, 0.27, 0.33, 0.45]], requires_grad=True)
    y = Executor(model, straight_through={"Round"})({**feeds, "i0": x})["o0"]
    np.testing.assert_allclose(y.detach().numpy(), schemes()[scheme].fake(x.detach().numpy(), p), rtol=1e-6)
    assert y.requires_grad == passed
    if passed:
        y.sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), np.ones((1, 4)), atol=0.03)


def test_gradient_of_a_scale_is_the_one_of_learned_step_sizes() -> None:
    """LSQ: rounding error inside, code minus zero-point where clipped."""
    p = list(schemes()["uniform"].grid(-1.0, 1.0, 4))[-1]
    model, feeds = linear("uniform", p)
    x, scale = np.array([[-5.0, -0.31, 0.52, 5.0]], np.float32), torch.tensor(float(p.scale), requires_grad=True)
    Executor(model, straight_through={"Round"})({**feeds, "i0": x, "i5": scale})["o0"].sum().backward()
    ratio, zero = x[0, 1:3].astype(np.float64) / float(p.scale), float(p.zero)
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(
        (0 - zero) + (15 - zero) + float((np.rint(ratio) - ratio).sum()), abs=1e-4
    )


def test_unknown_straight_through_is_refused() -> None:
    with pytest.raises(InputError, match="straight-through form of 'Floor'"):
        Executor(chain(), straight_through={"Floor"})


@pytest.mark.parametrize("name", ["lavt", "sam-encoder", "sam-decoder", "bert", "swin"])
def test_everything_is_computed_where_it_is_asked_for(name: str, minis: Callable[..., Any]) -> None:
    """On torch's device without memory, which refuses to mix with another: what is made on the CPU by mistake fails."""
    exported = minis(name)
    executor = Executor(canonicalise(load(exported.path)), device="meta")
    for output, value in executor(exported.feeds).items():
        assert value.device.type == "meta"
        assert tuple(value.shape) == exported.expected[output].shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => (float[1] y) { y = Selu(x) }',
            "op Selu is not supported",
        ),
        (
            '<ir_version: 10, opset_import: ["" : 13]> g (float[1] x) => (float[1] y) { y = Relu(x) }',
            "opset 13 is not supported",
        ),
        (
            '<ir_version: 10, opset_import: ["" : 21, "a" : 1]> g (float[1] x) => (float[1] y) { y = a.Relu(x) }',
            "op a.Relu is not supported",
        ),
        (
            '<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => (float[1] y) { y = Relu <k = 1> (x) }',
            "attribute 'k' of op Relu",
        ),
        (
            '<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => (bfloat16[1] y) { y = Cast <to = 16> (x) }',
            "BFLOAT16",
        ),
    ],
)
def test_what_is_not_supported_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Executor(parser.parse_model(text)).run({"x": np.ones(1, np.float32)})
    assert "\n" not in str(raised.value)


def test_a_node_that_fails_is_named() -> None:
    with pytest.raises(InputError, match=r"node 'y' fails on inputs of shapes \(2, 2\), \(3, 2\)"):
        Executor(chain()).run({"b": np.ones((2, 2), np.float32)}, ["y"])


def test_attributes_reach_into_functions() -> None:
    """By reference, with a default, and into a function inside."""
    inner = parser.parse_function(
        '<opset_import: ["" : 21], domain: "d"> F <alpha: float = 0.5> (x) => (y) '
        "{ y = LeakyRelu <alpha = @alpha> (x) }"
    )
    outer = parser.parse_function(
        '<opset_import: ["" : 21, "d" : 1], domain: "d"> G <a> (x) => (y, z) { y = d.F <alpha = @a> (x) z = d.F(x) }'
    )
    graph = helper.make_graph(
        [helper.make_node("G", ["x"], ["y", "z"], domain="d", a=0.25)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "yz"],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("d", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[inner, outer], ir_version=10)
    found = Executor(model).run({"x": np.array([-4.0], np.float32)})
    assert (found["y"].item(), found["z"].item()) == (-1.0, -2.0)


def test_kernels_are_found_by_name() -> None:
    assert {"Add", "Resize", "LayerNormalization", "ScatterND"} <= set(kernels())
    assert not {"Ints", "Tensor", "Optional"} & set(kernels())
