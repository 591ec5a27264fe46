"""Targets: what they ask for holds in the file, whatever the recipe, and contradictions are refused in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from onnxptq import Quantizer
from onnxptq.cli import main
from onnxptq.errors import InputError
from onnxptq.pipeline.config import RunConfig
from onnxptq.recipe import Recipe
from onnxptq.targets.target import Target
from tests.graph.build import model

WIDTH = 16
NAMES = ["onnxptq", "onnxruntime", "web", "openvino", "tensorrt", "qnn"]


def transformer() -> onnx.ModelProto:
    """A convolution, an attention with one head and a linear; enough layers that the middle ones are in scope."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    return model(
        """g (float[1, 3, 8, 8] x) => (float[1, 16, 16] y) {
        c0 = Conv<kernel_shape = [2, 2], strides = [2, 2]>(x, w0, b0) c1 = Conv<kernel_shape = [1, 1]>(c0, w1, b0)
        f = Reshape(c1, flat) t = Transpose<perm = [0, 2, 1]>(f)
        q0 = MatMul(t, wq) q = Add(q0, b0) k0 = MatMul(t, wk) k = Add(k0, b0) v0 = MatMul(t, wv) v = Add(v0, b0)
        kt = Transpose<perm = [0, 2, 1]>(k) s0 = MatMul(q, kt) s = Mul(s0, quarter) p = Softmax<axis = -1>(s)
        o = MatMul(p, v) u0 = MatMul(o, wu) u = Add(u0, b0) a = Tanh(u) y0 = MatMul(a, wy) y = Add(y0, b0)
        }""",
        w0=random(WIDTH, 3, 2, 2),
        w1=random(WIDTH, WIDTH, 1, 1),
        b0=random(WIDTH),
        flat=np.array([1, WIDTH, 16]),
        quarter=np.float32(0.25),
        **{name: random(WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wu", "wy")},
    )


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(5)]


def quantize(target: str, recipe: str = "minmax", bits: str = "w8a8", **options: Any) -> Any:
    quantizer = Quantizer(transformer(), recipe=recipe, bits=bits, target=target, threads=1, **options)
    quantizer.calibrate(samples())
    return quantizer.quantize()


def zeros(proto: onnx.ModelProto) -> list[tuple[str, Any]]:
    """The zero-point of each QuantizeLinear and DequantizeLinear."""
    held = {i.name: i for i in proto.graph.initializer}
    coded = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return [(node.op_type, numpy_helper.to_array(held[node.input[2]])) for node in coded]


def test_names() -> None:
    assert Target.names() == sorted(NAMES)
    assert all(Target.load(name).description for name in NAMES)


@pytest.mark.parametrize("recipe", ["minmax", "auto", "ptq4vit"])
def test_tensorrt_has_zero_points_of_zero_and_int8(recipe: str) -> None:
    result = quantize("tensorrt", recipe)
    found = zeros(result.model)
    assert len(found) > 8
    assert all(zero.dtype == np.int8 and not zero.any() for _, zero in found)
    assert result.report.settings["target"] == "tensorrt"
    assert result.report.format == "qdq"
    (output,) = result.report.outputs.values()
    assert output.sqnr is not None
    assert output.sqnr > 10


@pytest.mark.parametrize("target", ["onnxruntime", "web", "openvino", "tensorrt"])
def test_attention_stays_in_float(target: str) -> None:
    found = Counter(key.rsplit(":", 1)[1] for key in quantize(target).plan)
    assert found["weight"] == found["linear_input"] + found["conv_input"] > 4
    assert not set(found) & {"query", "key", "value", "softmax"}


def test_openvino_has_symmetric_weights_and_affine_activations() -> None:
    plan = quantize("openvino").plan
    sides = {(site.role == "weight", plan[key].symmetric, plan[key].bits) for key, site in plan.sites.items()}
    assert sides == {(True, True, 7), (False, False, 8)}


@pytest.mark.parametrize(
    ("bits", "settings", "width", "said"),
    [("w8a8", {}, 7, True), ("w8a8", {"weights.bits": "8"}, 8, False), ("w8a7", {}, 8, False), ("w8a32", {}, 8, False)],
)
def test_openvino_sums_in_16_bits_without_vnni(bits: str, settings: dict[str, str], width: int, said: bool) -> None:
    quantizer = Quantizer(transformer(), bits=bits, target="openvino", settings=settings)
    plan = quantizer.plan()
    assert {choice.bits for key, choice in plan.items() if plan.sites[key].role == "weight"} == {width}
    assert any("weights use 7 of 8 bits" in warning for warning in quantizer.warnings) == said


def test_qnn_codes_attention_as_uint8() -> None:
    result = quantize("qnn")
    assert {"query", "key", "value", "softmax"} <= {key.rsplit(":", 1)[1] for key in result.plan}
    kinds = {zero.dtype for op, zero in zeros(result.model) if op == "QuantizeLinear"}
    assert kinds == {np.dtype(np.uint8)}


def test_onnxruntime_multiplies_linears_in_integers(tmp_path: Path) -> None:
    """Counted in onnxruntime's own optimised graph: the output layer, out of scope, and the attention are in floats."""
    result = quantize("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(result.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    linears = sum(key.endswith(":linear_input") for key in result.plan)
    assert ops["MatMulIntegerToFloat"] == linears == 4
    assert ops["Gemm"] + ops["FusedGemm"] == 1


def test_onnxptq_is_format_native() -> None:
    config = RunConfig.of("auto", "w4a4", target="onnxptq")
    assert (config.format, config.recipe) == ("native", Recipe.load("auto"))


def test_rivals_of_the_selection_are_under_the_target_too() -> None:
    config = RunConfig.of("auto", "w8a8", target="tensorrt")
    plan = config.by(Recipe.load("omse")).recipe.plan(discovered(), config.bits)[0]
    Target.load("tensorrt").refuse(plan)
    with pytest.raises(InputError, match=r"target tensorrt: .* sites contradict it; first: .*symmetric"):
        Target.load("tensorrt").refuse(Recipe.load("omse").plan(discovered(), config.bits)[0])


def discovered() -> Any:
    return Quantizer(transformer()).structure


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"target": "tensorflow"},
            "unknown target 'tensorflow'; did you mean 'tensorrt'.*use one of onnxptq",
        ),
        ({"target": "tensorrt", "format": "native"}, "format native: target tensorrt is written as format qdq"),
        ({"target": "tensorrt", "bits": "w6a6"}, "target tensorrt: no weights of 6 bits; use 8, 32"),
        ({"target": "onnxruntime", "bits": "w4a4"}, "target onnxruntime: no activations of 4 bits; use 5, 6, 7, 8, 32"),
    ],
)
def test_contradictions_are_refused(words: dict[str, str], message: str) -> None:
    given = {"bits": "w8a8", **words}
    with pytest.raises(InputError, match=message):
        RunConfig.of("auto", given.pop("bits"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activations.symmetric": "false"}, "activations are symmetric"),
        ({"weights.bits": "4"}, "4 bits, where weights have 8, 32"),
        ({"query.bits": "8"}, "query stays in float"),
    ],
)
def test_settings_that_contradict_the_target_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=f"target tensorrt: .* contradict it; first: .*{message}"):
        Quantizer(transformer(), bits="w8a8", target="tensorrt", settings=settings).plan()


def test_plans_that_contradict_the_target_are_refused() -> None:
    plan = quantize("onnxruntime").plan
    with pytest.raises(InputError, match=r"target tensorrt: .* (weights|activations) are symmetric"):
        Quantizer(transformer(), target="tensorrt", plan=plan).plan()


def test_command_line_and_python_write_the_same_file(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(transformer(), source)
    options = ["--target", "tensorrt", "--recipe", "minmax", "--calib", "synthetic", "--threads", "1"]
    assert main(["quantize", str(source), *options]) == 0
    quantizer = Quantizer(source, recipe="minmax", target="tensorrt", threads=1)
    quantizer.calibrate("synthetic")
    quantizer.quantize().save(tmp_path / "api.onnx")
    assert (tmp_path / "m.w8a8.tensorrt.onnx").read_bytes() == (tmp_path / "api.onnx").read_bytes()
