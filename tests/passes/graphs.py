"""Small hand-made graphs with their structure, and the two functions that run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxptq.calibration.statistics.base import Request, Statistic
from onnxptq.graph.model import Model
from onnxptq.passes.base import Passed, run_passes
from onnxptq.structure import Attention, Conv, Linear, Source, Structure

Array = NDArray[Any]
Feeds = Sequence[Mapping[str, Array]]


class Builder:
    """Writes a graph node by node and records the structure that it has."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.linears: dict[str, Linear] = {}
        self.convs: dict[str, Conv] = {}
        self.attentions: dict[str, Attention] = {}
        self.norms: list[str] = []
        self.batch_norms: list[str] = []
        self.count = 0

    def const(self, array: Array, name: str = "") -> str:
        name = name or self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def name(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def node(self, op: str, *inputs: str, outputs: int = 1, out: str = "", **attrs: Any) -> Any:
        name = self.name(op.lower())
        outs = [out or f"{name}_out"] if outputs == 1 else [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), outs, name=name, **attrs))
        return outs[0] if outputs == 1 else outs

    def floats(self, *shape: int, scale: float = 1.0) -> Array:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def linear(self, x: str, weight: Array | str, bias: Array | str | None = None, out: str = "") -> str:
        """MatMul (+ Add); arrays become constants, names are taken as constants that are there."""
        w = weight if isinstance(weight, str) else self.const(weight)
        shape = next(c.dims for c in self.constants if c.name == w)
        b = None if bias is None else bias if isinstance(bias, str) else self.const(bias)
        y = self.node("MatMul", x, w, out=out if b is None else "")
        product = self.nodes[-1].name
        add = None
        if b is not None:
            y = self.node("Add", y, b, out=out)
            add = self.nodes[-1].name
        self.linears[product] = Linear(product, x, w, b, add, y, shape[0], shape[1])
        return y

    def norm(self, x: str, channels: int, scale: Array | str | None = None, bias: Array | str | None = None) -> str:
        scale = self.floats(channels) + 2 if scale is None else scale
        bias = self.floats(channels) if bias is None else bias
        names = [t if isinstance(t, str) else self.const(t) for t in (scale, bias)]
        y = self.node("LayerNormalization", x, *[n for n in names if n], axis=-1, epsilon=1e-5)
        self.norms.append(self.nodes[-1].name)
        return y

    def heads(self, x: str, batch: int, heads: int, dim: int) -> str:
        """[B, N, H * d] -> [B, H, N, d]."""
        return self.node("Transpose", self.node("Reshape", x, self.ints(batch, -1, heads, dim)), perm=[0, 2, 1, 3])

    def attention(
        self,
        q: str,
        k: str,
        v: str,
        *,
        heads: int,
        dim: int,
        scale: float,
        additive: Sequence[str] = (),
        out: str = "",
        **known: Any,
    ) -> str:
        """softmax(scale q k^T + additive) v over [B, H, N, d] tensors, recorded with ``known`` (sources, fusable
        ...)."""
        kt = self.node("Transpose", k, perm=[0, 1, 3, 2])
        qk = self.node("MatMul", q, kt)
        product = self.nodes[-1].name
        scores = self.node("Mul", qk, self.const(np.float32(scale)))
        for term in additive:
            scores = self.node("Add", scores, term)
        p = self.node("Softmax", scores, axis=-1)
        name = self.nodes[-1].name
        y = self.node("MatMul", p, v, out=out)
        self.attentions[name] = Attention(
            name=name, qk=product, av=self.nodes[-1].name, q=q, k=k, v=v, probabilities=p, output=y, scale=scale,
            heads=heads, dim=dim, queries=None, keys=None, additive=tuple(additive), **known,
        )  # fmt: skip
        return y

    def know(self, **known: Any) -> None:
        """Add facts to the attention written last."""
        name, last = next(reversed(self.attentions.items()))
        self.attentions[name] = replace(last, **known)

    def merge(self, y: str, batch: int, channels: int) -> str:
        """[B, H, N, d] -> [B, N, H * d]."""
        return self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]), self.ints(batch, -1, channels))

    def source(self, output: str, channels: Array, exclusive: bool = True) -> Source:
        """The source of an attention operand: the linear whose output is ``output``."""
        linear = next(name for name, linear in self.linears.items() if linear.output == output)
        return Source(linear, np.asarray(channels, np.int64), exclusive)

    def build(self, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str]) -> tuple[Model, Structure]:
        """The model (shapes inferred) and its structure."""
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
            self.constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        onnx.checker.check_model(proto, full_check=True)
        structure = Structure(
            self.linears, self.convs, self.attentions, norms=tuple(self.norms), batch_norms=tuple(self.batch_norms)
        )
        return Model.from_proto(proto), structure


def run(model: Model | onnx.ModelProto, feeds: Feeds, extra: Sequence[str] = ()) -> list[dict[str, Array]]:
    """Outputs (and ``extra`` tensors) of the model on every sample."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.to_proto() if isinstance(model, Model) else model)
    onnx.checker.check_model(proto, full_check=True)
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(extra) if name not in have)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, dict(feed)), strict=True)) for feed in feeds]


def fill(model: Model, requests: Mapping[str, Request], feeds: Feeds) -> dict[str, Statistic]:
    """What the calibration engine answers, by fetching every tensor."""
    for sample in run(model, feeds, [request.tensor for request in requests.values()]):
        for request in requests.values():
            request.statistic.update(sample[request.tensor])
    return {name: request.statistic for name, request in requests.items()}


def apply(
    model: Model, structure: Structure, feeds: Feeds, *names: str, tolerance: float = 1e-4, **options: Mapping[str, Any]
) -> Passed:
    """Run passes by name; ``options`` by pass name with underscores."""
    return run_passes(
        model,
        {name: options.get(name.replace("-", "_"), {}) for name in names},
        discover=lambda _: structure,
        fill=lambda now, requests, _: fill(now, requests, feeds),
        outputs=lambda now: run(now, feeds),
        tolerance=tolerance,
    )


def cross(
    seed: int = 0,
    *,
    heads: int = 2,
    dim: int = 4,
    bias: bool = True,
    offset: float = 0.0,
    mask: bool = False,
    token_to_image: bool = True,
) -> tuple[Model, Structure, Feeds]:
    """Tokens [2, 5, C] read an image [2, 12, C] through four separate linears; ``offset`` shifts key channels by + and
    -."""
    b = Builder(seed)
    width = heads * dim
    channels = np.arange(width).reshape(heads, dim)
    shift = offset * np.where(b.rng.random(width) < 0.5, -1, 1)
    biases = [b.floats(width) if bias else None for _ in range(3)]
    if bias:
        biases[1] = (biases[1] + shift).astype(np.float32)
    names = [b.linear(x, b.floats(6, width), c) for x, c in zip(("tokens", "image", "image"), biases, strict=True)]
    q, k, v = (b.heads(name, 2, heads, dim) for name in names)
    extra = [b.const(np.where(b.rng.random((2, 1, 1, 12)) < 0.3, -1e4, 0).astype(np.float32))] if mask else []
    y = b.attention(q, k, v, heads=heads, dim=dim, scale=dim**-0.5, additive=extra)
    b.linear(b.merge(y, 2, width), b.floats(width, 6), b.floats(6) if bias else None, out="y")
    projection = next(reversed(b.linears))
    sources = [b.source(name, channels) for name in names]
    b.know(
        q_source=sources[0], k_source=sources[1], v_source=sources[2], o_linear=projection, o_channels=channels,
        token_to_image=token_to_image,
    )  # fmt: skip
    model, structure = b.build({"tokens": [2, 5, 6], "image": [2, 12, 6]}, ["y"])
    feeds = [{"tokens": b.floats(2, 5, 6), "image": b.floats(2, 12, 6)} for _ in range(3)]
    return model, structure, feeds


def window(
    seed: int = 0, *, heads: int = 2, dim: int = 4, pad: str = "before", relative: bool = True, bias: bool = True
) -> tuple[Model, Structure, Feeds]:
    """A block of a SAM encoder: LayerNorm, zero padding of 3 x 3 to 4 x 4, windows of 2 x 2, fused qkv, relative
    position from q.

    ``pad``: where the padding sits, ``before`` the qkv linear as it should, ``behind`` it, or ``none`` (an image of 4 x
    4).
    """
    b = Builder(seed)
    width, side = heads * dim, 4 if pad == "none" else 3
    x = b.norm("x", width)
    if pad == "before":
        x = b.node("Pad", x, b.ints(0, 0, 0, 0, 0, 1, 1, 0))
    weight, offset = b.floats(width, 3 * width), b.floats(3 * width) * 3 if bias else None
    if pad == "behind":
        x = b.node("Pad", b.linear(x, weight, offset), b.ints(0, 0, 0, 0, 0, 1, 1, 0))
        made = next(reversed(b.linears.values())).output
        x = b.node("Transpose", b.node("Reshape", x, b.ints(1, 2, 2, 2, 2, 3 * width)), perm=[0, 1, 3, 2, 4, 5])
        qkv = b.node("Reshape", x, b.ints(4, 2, 2, 3 * width))
    else:
        x = b.node("Transpose", b.node("Reshape", x, b.ints(1, 2, 2, 2, 2, width)), perm=[0, 1, 3, 2, 4, 5])
        qkv = made = b.linear(b.node("Reshape", x, b.ints(4, 2, 2, width)), weight, offset)
    parts = b.node("Transpose", b.node("Reshape", qkv, b.ints(4, 4, 3, heads, dim)), perm=[2, 0, 3, 1, 4])
    q, k, v = (b.node("Squeeze", part, b.ints(0)) for part in b.node("Split", parts, outputs=3, axis=0, num_outputs=3))
    extra = []
    if relative:
        table = b.const(b.floats(dim, 4))
        extra = [b.node("MatMul", q, table)]
    y = b.attention(q, k, v, heads=heads, dim=dim, scale=dim**-0.5, additive=extra)
    b.linear(b.merge(y, 4, width), b.floats(width, width), b.floats(width) if bias else None, out="y")
    projection = next(reversed(b.linears))
    channels = np.arange(width).reshape(heads, dim)
    b.know(
        q_source=b.source(made, channels, exclusive=not relative), k_source=b.source(made, channels + width),
        v_source=b.source(made, channels + 2 * width), o_linear=projection, o_channels=channels,
    )  # fmt: skip
    model, structure = b.build({"x": [1, side, side, width]}, ["y"])
    return model, structure, [{"x": b.floats(1, side, side, width)} for _ in range(3)]
