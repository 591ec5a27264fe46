"""Small models and samples for the tests of calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import Source
from onnxptq.graph.model import Model
from onnxptq.running.sessions import library_path

HAS_LIBRARY = library_path() is not None


def model(text: str, **constants: NDArray[Any]) -> Model:
    """A model in ONNX's text form with named nodes, shapes inferred, and constants."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.checker.check_model(proto)
    return Model.from_proto(onnx.shape_inference.infer_shapes(proto))


def mlp(*, seed: int = 0) -> Model:
    """x [batch, 6, 8] -> h -> Gelu -> y, with weights of [8, 16] and [16, 4]."""
    rng = np.random.default_rng(seed)
    return model(
        "(float[batch, 6, 8] x) => (float[batch, 6, 4] y) { h = MatMul(x, w) g = Gelu(h) y = MatMul(g, v) }",
        w=rng.standard_normal((8, 16)).astype(np.float32),
        v=rng.standard_normal((16, 4)).astype(np.float32),
    )


def samples(count: int = 4, *, batch: int = 2, seed: int = 1) -> list[dict[str, NDArray[Any]]]:
    """Samples of ``mlp``, each with another spread."""
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((batch, 6, 8)) * (i + 1)).astype(np.float32)} for i in range(count)]


def source(held: Model, given: Any) -> Source:
    """The samples as a source of the model."""
    return open_source(given, inputs=input_specs(held))


def encoder(*, dynamic: bool = True) -> Model:
    """A text encoder of one block: ids and mask [batch, 5], embedding of 7 x 8, two heads, padding masked
    additively."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> NDArray[Any]:
        return rng.standard_normal(shape).astype(np.float32)

    size = "batch" if dynamic else "2"
    return model(
        f"(int64[{size}, 5] ids, int64[{size}, 5] mask) => (float[{size}, 5, 8] y) {{"
        "e = Gather(table, ids) q0 = MatMul(e, wq) k0 = MatMul(e, wk) v0 = MatMul(e, wv)"
        "q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v1 = Reshape(v0, heads)"
        "q = Transpose<perm = [0, 2, 1, 3]>(q1) k = Transpose<perm = [0, 2, 1, 3]>(k1) v = Transpose<perm = [0, 2, "
        f"1, 3]>(v1)"
        "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt)"
        "m0 = Cast<to = 1>(mask) m1 = Sub(one, m0) m2 = Mul(m1, low) m = Unsqueeze(m2, axes)"
        "sm = Add(s, m) p = Softmax<axis = -1>(sm) a = MatMul(p, v)"
        "at = Transpose<perm = [0, 2, 1, 3]>(a) ar = Reshape(at, flat) o = MatMul(ar, wo) y = Add(o, e) }",
        table=weights(7, 8),
        wq=weights(8, 8),
        wk=weights(8, 8),
        wv=weights(8, 8),
        wo=weights(8, 8),
        heads=np.array([0, 0, 2, 4]),
        flat=np.array([0, 0, 8]),
        one=np.float32(1),
        low=np.float32(-10000),
        axes=np.array([1, 2]),
    )


def sentences() -> list[dict[str, NDArray[Any]]]:
    """Samples of ``encoder``, padded to 5 tokens."""
    rng = np.random.default_rng(4)
    found = []
    for lengths in ((3, 5), (1, 2), (5, 4)):
        mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)
        found.append({"ids": rng.integers(0, 7, (2, 5)) * mask, "mask": mask})
    return found
