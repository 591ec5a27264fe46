"""Ops of onnxruntime's optimizer expanded to standard ones: onnxruntime computes the same outputs from both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.structure import discover
from tests.graph.build import normal, ops, run, same

B, S, T, N, H = 2, 5, 7, 3, 4
WIDE = N * H
Array = NDArray[Any]


def contrib(
    op: str,
    inputs: Sequence[Array | str | None],
    *,
    constants: Mapping[int, Array] | None = None,
    outputs: Sequence[tuple[str, int, int]] = (("y", TensorProto.FLOAT, 3),),
    domain: str = "com.microsoft",
    opset: int = 17,
    dynamic: bool = True,
    **attrs: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node: arrays are fed, ``constants`` by position are initialisers; None is left out."""
    held = dict(constants or {})
    count = max([*held, len(inputs) - 1]) + 1
    names = [f"i{k}" if k in held or (k < len(inputs) and inputs[k] is not None) else "" for k in range(count)]
    feeds = {f"i{k}": np.asarray(a) for k, a in enumerate(inputs) if a is not None and k not in held}
    infos = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"b{array.shape[0]}" if dynamic and axis == 0 else n for axis, n in enumerate(array.shape)],
        )
        for name, array in feeds.items()
    ]
    node = helper.make_node(op, names, [name for name, _, _ in outputs], name="fused", domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        infos,
        [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in outputs if name],
        [numpy_helper.from_array(array, f"i{k}") for k, array in held.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def expanded(proto: onnx.ModelProto, feeds: dict[str, Array], *, tolerance: float = 2e-6) -> Model:
    """Its canonical form, of standard ops alone and with the same outputs."""
    held = canonicalise(load(proto))
    assert not [node.op for node in held.graph.nodes if node.domain not in ("", None, "ai.onnx")]
    assert not held.notes
    same(proto, held, feeds, tolerance=tolerance)
    return held


X = normal(B, S, WIDE)
MASK = np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu"])
@pytest.mark.parametrize("opset", [11, 17, 21])
def test_gelus(op: str, opset: int) -> None:
    held = expanded(*contrib(op, [X], opset=opset))
    assert ops(held)["Gelu"] == (op != "QuickGelu")


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_gelus_with_bias(op: str) -> None:
    assert ops(expanded(*contrib(op, [X], constants={1: normal(WIDE, seed=1)}))) == {"Add": 1, "Gelu": 1}


@pytest.mark.parametrize("swapped", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("batches", [(0, 0), (1, 0), (0, 1)])
def test_fused_matmul(swapped: tuple[int, int], batches: tuple[int, int]) -> None:
    operands = []
    for index, (rows, columns) in enumerate([(4, 5), (5, 6)]):
        shape = [columns, rows] if swapped[index] else [rows, columns]
        full = [shape[0], 3, shape[1]] if batches[index] else [3, *shape]
        operands.append(normal(*full, seed=index))
    flags = {"transA": swapped[0], "transB": swapped[1], "transBatchA": batches[0], "transBatchB": batches[1]}
    expanded(*contrib("FusedMatMul", operands, alpha=0.3, dynamic=False, **flags))


def test_fused_matmul_with_a_weight_is_a_linear() -> None:
    held = expanded(*contrib("FusedMatMul", [X], constants={1: normal(8, WIDE)}, transB=1))
    assert len(discover(held).linears) == 1


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"])
def test_fused_gemm_and_conv(activation: str) -> None:
    parameters = {"LeakyRelu": [0.2], "Clip": [-0.1, 0.4], "HardSigmoid": [0.3, 0.4]}.get(activation, [])
    if activation not in ("Clip", "HardSigmoid"):
        named = {"activation_alpha": parameters[0]} if parameters else {}
        held = expanded(
            *contrib(
                "FusedGemm",
                [normal(B, 6)],
                constants={1: normal(8, 6), 2: normal(8)},
                outputs=[("y", TensorProto.FLOAT, 2)],
                activation=activation,
                transB=1,
                **named,
            )
        )
        assert ops(held)["MatMul"] == 1
    held = expanded(
        *contrib(
            "FusedConv",
            [normal(B, 4, 6, 6), None, None, normal(B, 8, 4, 4, seed=9)],
            constants={1: normal(8, 4, 3, 3), 2: normal(8)},
            outputs=[("y", TensorProto.FLOAT, 4)],
            activation=activation,
            kernel_shape=[3, 3],
            **({"activation_params": parameters} if parameters else {}),
        )
    )
    assert ops(held)["Conv"] == 1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_skip_layer_normalization(bias: bool, flat: bool) -> None:
    constants = {2: normal(WIDE), 3: normal(WIDE, seed=1)} | ({4: normal(WIDE, seed=2)} if bias else {})
    outputs = [("y", TensorProto.FLOAT, 3), ("", 0, 0), ("", 0, 0), ("total", TensorProto.FLOAT, 3)]
    skip = normal(S, WIDE, seed=3) if flat else normal(B, S, WIDE, seed=3)
    held = expanded(*contrib("SkipLayerNormalization", [X, skip], constants=constants, outputs=outputs, epsilon=1e-5))
    assert ops(held)["LayerNormalization"] == 1


def test_skip_simplified_layer_normalization() -> None:
    outputs = [("y", TensorProto.FLOAT, 3), ("", 0, 0), ("", 0, 0), ("total", TensorProto.FLOAT, 3)]
    constants = {2: normal(WIDE), 3: normal(WIDE, seed=2)}
    op = "SkipSimplifiedLayerNormalization"
    expanded(*contrib(op, [X, normal(B, S, WIDE, seed=3)], constants=constants, outputs=outputs, epsilon=1e-5))


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_norms_in_the_standard_domain(op: str, opset: int) -> None:
    expanded(*contrib(op, [X], constants={1: normal(WIDE)}, domain="", opset=opset, axis=-1, epsilon=1e-5))


@pytest.mark.parametrize("given", [False, True])
def test_embed_layer_normalization(given: bool) -> None:
    ids, segments = np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], np.int32), np.array([[0] * 5, [1] * 5], np.int32)
    tables = {2: normal(9, WIDE), 3: normal(8, WIDE, seed=1), 4: normal(2, WIDE, seed=2)}
    norms = {5: normal(WIDE, seed=3), 6: normal(WIDE, seed=4)}
    inputs: list[Array | None] = [ids, segments if given else None, None, None, None, None, None, MASK]
    if given:
        inputs.append(np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], np.int32))
    constants = {**tables, **norms} if given else {**{k: t for k, t in tables.items() if k != 4}, **norms}
    outputs = [("y", TensorProto.FLOAT, 3), ("lengths", TensorProto.INT32, 1), ("total", TensorProto.FLOAT, 3)]
    expanded(*contrib("EmbedLayerNormalization", inputs, constants=constants, outputs=outputs))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("kind", ["tokens", "heads", "part", "offset"])
def test_rotary_embedding(kind: str, interleaved: int) -> None:
    width = H // 2 if kind == "part" else H
    tables = {2: normal(16, width // 2), 3: normal(16, width // 2, seed=1)}
    x = normal(B, N, S, H) if kind in ("heads", "part") else X
    places = np.array([3], np.int64) if kind == "offset" else np.stack([np.arange(S), np.arange(S) + 4])
    attrs = {"rotary_embedding_dim": width, "num_heads": N} if kind == "part" else {}
    outputs = [("y", TensorProto.FLOAT, x.ndim)]
    proto, feeds = contrib(
        "RotaryEmbedding", [x, places], constants=tables, outputs=outputs, interleaved=interleaved, **attrs
    )
    expanded(proto, feeds)


def attended(held: Model) -> None:
    """The attention is one, whose keys are transposed in plain sight."""
    found = discover(held).attentions
    assert len(found) == 1
    assert next(iter(found.values())).fusable


@pytest.mark.parametrize("mask", [None, "keys", "pairs", "lengths"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(mask: str | None, causal: int) -> None:
    masks = {
        None: None,
        "keys": MASK,
        "pairs": np.tril(np.ones((B, S, S), np.int32)),
        "lengths": np.array([5, 3], np.int32),
    }
    constants = {1: normal(WIDE, 3 * WIDE) / 3, 2: normal(3 * WIDE, seed=1)}
    proto, feeds = contrib(
        "Attention", [X, None, None, masks[mask]], constants=constants, num_heads=N, unidirectional=causal
    )
    attended(expanded(proto, feeds))


def test_attention_of_other_sizes_with_past() -> None:
    sizes = [WIDE, WIDE, WIDE]
    constants = {1: normal(WIDE, 3 * WIDE) / 3, 2: normal(3 * WIDE, seed=1)}
    past = normal(2, B, N, 3, H, seed=4)
    outputs = [("y", TensorProto.FLOAT, 3), ("present", TensorProto.FLOAT, 5)]
    proto, feeds = contrib(
        "Attention",
        [X, None, None, None, past],
        constants=constants,
        outputs=outputs,
        num_heads=N,
        unidirectional=1,
        qkv_hidden_sizes=sizes,
    )
    expanded(proto, feeds)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_multi_head_attention(mask: bool, bias: bool, added: bool) -> None:
    q, k, v = X, normal(B, T, WIDE, seed=1), normal(B, T, WIDE, seed=2)
    allowed = np.array([[1] * T, [1, 1, 1, 0, 0, 0, 0]], np.int32) if mask else None
    term = normal(1, N, S, T, seed=5) if added else None
    inputs = [q, k, v, None, allowed, term]
    constants = {3: normal(3 * WIDE, seed=3)} if bias else {}
    attended(expanded(*contrib("MultiHeadAttention", inputs, constants=constants, num_heads=N, scale=0.3)))


def test_multi_head_attention_with_keys_by_head() -> None:
    expanded(*contrib("MultiHeadAttention", [X, normal(B, N, T, H), normal(B, N, T, H, seed=1)], num_heads=N))


@pytest.mark.parametrize("packed", [2, 3])
def test_multi_head_attention_packed(packed: int) -> None:
    """onnxruntime's CPU has no packed kernel, so the same attention with its operands apart is the reference."""
    q, k, v = (normal(B, S, N, H, seed=s) for s in range(3))
    flat = [t.reshape(B, S, WIDE) for t in (q, k, v)]
    inputs = [np.stack([q, k, v], axis=3)] if packed == 3 else [flat[0], np.stack([k, v], axis=3)]
    proto, feeds = contrib("MultiHeadAttention", inputs, num_heads=N)
    held = canonicalise(load(proto))
    apart, given = contrib("MultiHeadAttention", flat, num_heads=N)
    assert np.allclose(run(held.to_proto(), feeds)[0], run(apart, given)[0], atol=1e-6)
    attended(held)


def test_multi_head_attention_with_past() -> None:
    past = [normal(B, N, 3, H, seed=s) for s in (6, 7)]
    outputs = [("y", TensorProto.FLOAT, 3), ("keys", TensorProto.FLOAT, 4), ("values", TensorProto.FLOAT, 4)]
    inputs = [X, normal(B, S, WIDE, seed=1), normal(B, S, WIDE, seed=2), None, None, None, *past]
    expanded(*contrib("MultiHeadAttention", inputs, outputs=outputs, num_heads=N, unidirectional=1))


def test_a_linear_before_an_attention_keeps_its_bias() -> None:
    proto, feeds = contrib("MultiHeadAttention", [X, X, X], constants={3: normal(3 * WIDE, seed=3)}, num_heads=N)
    node = proto.graph.node[0]
    for index in range(3):
        name = f"w{index}"
        proto.graph.initializer.append(numpy_helper.from_array(normal(WIDE, WIDE, seed=index) / 3, name))
        proto.graph.node.insert(index, helper.make_node("MatMul", ["i0", name], [f"p{index}"], name=f"line{index}"))
        node = proto.graph.node[index + 1]
        node.input[index] = f"p{index}"
    del proto.graph.input[1:]
    found = discover(expanded(proto, {"i0": feeds["i0"]}))
    (attention,) = found.attentions.values()
    assert all(line.bias is not None for line in found.linears.values())
    assert attention.q_source is not None
    assert attention.v_source is not None


def test_an_op_that_is_not_expressible_is_said() -> None:
    proto, _ = contrib("Gelu", [X])
    proto.graph.node[0].output[0] = "t"
    proto.graph.node.append(helper.make_node("Inverse2", ["t"], ["y"], domain="com.microsoft"))
    held = canonicalise(load(proto))
    assert ops(held) == {"Gelu": 1, "Inverse2": 1}
    (note,) = held.notes
    assert "1 com.microsoft.Inverse2" in note


def test_a_layout_of_one_processor_is_refused() -> None:
    proto, _ = contrib("ReorderInput", [normal(1, 8, 4, 4)], domain="com.microsoft.nchwc", channels_last=0)
    with pytest.raises(InputError, match="ORT_ENABLE_EXTENDED"):
        load(proto)


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), np.float32)


def tanh_gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def softmax(x: Array) -> Array:
    high = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(high / high.sum(-1, keepdims=True))


def group_norm(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """Channels last, then SiLU."""
    parts = x.reshape(B, -1, groups, x.shape[-1] // groups)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    y = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias
    return np.asarray(y / (1 + np.exp(-y)))


def pointwise_conv(x: Array, weight: Array) -> Array:
    """Channels last, a kernel of 1 x 1."""
    return np.asarray(x @ weight[:, 0, 0].T)


V, W, BIAS = normal(WIDE, seed=7), normal(WIDE, 8, seed=8), normal(8, seed=9)
PICTURE, KERNEL = normal(B, 5, 6, 8), normal(4, 1, 1, 8, seed=1)
FORMULAS: dict[str, tuple[list[Array | None], dict[int, Array], Array, dict[str, Any]]] = {
    "BiasAdd": ([X, None, X[::-1].copy()], {1: V}, X + V + X[::-1], {}),
    "BiasSplitGelu": ([X], {1: V}, (X + V)[..., : WIDE // 2] * gelu((X + V)[..., WIDE // 2 :]), {}),
    "GemmFastGelu": ([X], {1: W, 2: BIAS}, tanh_gelu(X @ W + BIAS), {}),
    "BiasSoftmax": ([X, X[:1] * 3], {}, softmax(X + X[:1] * 3), {"axis": 2, "is_inner_broadcast": 0}),
    "TransposeMatMul": ([X], {1: W.T.copy()}, 2 * (X @ W), {"transB": 1, "alpha": 2.0}),
    "GroupNorm": (
        [PICTURE],
        {1: normal(8, seed=2), 2: normal(8, seed=3)},
        group_norm(PICTURE, normal(8, seed=2), normal(8, seed=3), 4),
        {"groups": 4, "activation": 1, "epsilon": 1e-5},
    ),
    "NhwcConv": ([PICTURE], {1: KERNEL}, pointwise_conv(PICTURE, KERNEL), {"kernel_shape": [1, 1]}),
}


@pytest.mark.parametrize("op", FORMULAS)
def test_ops_without_a_kernel_on_the_cpu(op: str) -> None:
    inputs, constants, wanted, attrs = FORMULAS[op]
    outputs = [("y", TensorProto.FLOAT, wanted.ndim)]
    proto, feeds = contrib(op, inputs, constants=constants, outputs=outputs, **attrs)
    held = canonicalise(load(proto))
    assert not held.notes
    assert np.allclose(run(held.to_proto(), feeds)[0], wanted, atol=2e-5)


@pytest.mark.parametrize("op", ["FastGelu", "QuickGelu", "SkipLayerNormalization", "MultiHeadAttention"])
def test_half_precision_is_computed_in_single(op: str) -> None:
    """onnxruntime's CPU has no such kernels in half precision: the reference is the same op in single precision."""
    inputs = {"SkipLayerNormalization": [X, X[::-1]], "MultiHeadAttention": [X, X, X]}.get(op, [X])
    constants = {2: normal(WIDE), 3: normal(WIDE, seed=1)} if op == "SkipLayerNormalization" else {}
    attrs = {"num_heads": N} if op == "MultiHeadAttention" else {}
    wanted = run(*contrib(op, inputs, constants=constants, **attrs))[0]
    half = {k: c.astype(np.float16) for k, c in constants.items()}
    outputs = [("y", TensorProto.FLOAT16, 3)]
    proto, feeds = contrib(op, [x.astype(np.float16) for x in inputs], constants=half, outputs=outputs, **attrs)
    held = canonicalise(load(proto))
    assert "CastLike" not in ops(held)
    assert np.allclose(run(held.to_proto(), feeds)[0], wanted, atol=1e-2)
