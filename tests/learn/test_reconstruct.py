"""Reconstruction of small networks, from request to file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from onnxptq import Quantizer  # noqa: E402
from onnxptq.calibration.progress import Silent  # noqa: E402
from onnxptq.learn import learner  # noqa: E402
from onnxptq.ops import schemes  # noqa: E402
from onnxptq.structure import Role  # noqa: E402

WIDTH = 12
SHORT = {"weights.iterations": "80", "weights.lr": "0.03"}


def network() -> onnx.ModelProto:
    """x + w3 relu(w2 relu(w1 x)): one block of three linears on a residual stream."""
    rng = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3, f"w{i}") for i in (1, 2, 3)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["e"]),
        helper.make_node("Add", ["x", "e"], ["y"]),
    ]
    shape = [4, 10, WIDTH]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SAMPLES = [{"x": np.random.default_rng(seed).standard_normal((4, 10, WIDTH)).astype(np.float32)} for seed in range(10)]


def quantized(recipe: str, bits: str = "w3a8", **settings: str) -> Any:
    learned = SHORT if recipe != "omse" and "weights.calibrator" not in settings else {}
    q = Quantizer(
        network(), recipe=recipe, bits=bits, include=[".*"], settings={**learned, **settings}, threads=1, seed=1
    )
    q.calibrate(SAMPLES, limit=8)
    return q.quantize()


def sqnr(result: Any) -> float:
    return float(result.report.outputs["y"].sqnr)


@pytest.mark.parametrize("recipe", ["adaround", "brecq", "qdrop"])
def test_learned_rounding_beats_nearest(recipe: str) -> None:
    assert sqnr(quantized(recipe)) > sqnr(quantized("omse")) + 1


def test_two_runs_are_equal_and_another_seed_is_not() -> None:
    one, two = quantized("qdrop"), quantized("qdrop")
    assert one.model.SerializeToString() == two.model.SerializeToString()


def test_every_weight_ends_on_its_grid() -> None:
    q = Quantizer(network(), recipe="qdrop", bits="w3a8", include=[".*"], settings=SHORT, threads=1)
    plan, moved = q.calibrate(SAMPLES, limit=8), 0
    for key, choice in plan.items():
        site = plan.sites[key]
        if site.role is Role.WEIGHT:
            learned, original = q.model.tensor(site.tensor).values, q.prepared.model.tensor(site.tensor).values
            codes = schemes()["uniform"].encode(learned, choice.params)
            np.testing.assert_allclose(schemes()["uniform"].fake(learned, choice.params), learned, atol=1e-7)
            moved += int((codes != schemes()["uniform"].encode(original, choice.params)).sum())
            assert np.abs(learned - original).max() < 2 * choice.params.scale.max()
    assert moved


def test_scales_of_activations_are_learned_too() -> None:
    start, end = quantized("adaround", "w4a3").plan, quantized("qdrop", "w4a3", **{"weights.scale_lr": "0.001"}).plan
    moved = [
        key
        for key, choice in end.items()
        if not key.endswith(":weight") and not np.array_equal(choice.params.scale, start[key].params.scale)
    ]
    assert moved


def test_a_unit_that_gets_worse_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    optimise = learner.Learner._optimise

    def spoiled(self: Any, *args: Any, **kwargs: Any) -> None:
        optimise(self, *args, **kwargs)
        with torch.no_grad():
            for one in self.roundings.values():
                one.alpha.neg_()

    start = sqnr(quantized("adaround", **{"weights.calibrator": "omse"}))
    monkeypatch.setattr(learner.Learner, "_optimise", spoiled)
    assert sqnr(quantized("adaround")) == pytest.approx(start, abs=1e-6)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxptq.calibration.checkpoint import Checkpoint

    class Killed(Exception):
        pass

    class Dies(Silent):
        @contextmanager
        def task(self, label: str, total: int) -> Iterator[Any]:
            left = [2]

            def step() -> None:
                left[0] -= label == "learning"
                if not left[0]:
                    raise Killed

            yield step

    def made(**options: Any) -> Quantizer:
        return Quantizer(
            network(), recipe="adaround", bits="w3a8", include=[".*"], settings=SHORT, threads=1, seed=1, **options
        )

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    with pytest.raises(Killed):
        made(progress=Dies()).calibrate(SAMPLES, limit=8, folder=tmp_path / "kept")
    resumed = made()
    runs: list[int] = []
    run = learner.Learner.run
    monkeypatch.setattr(learner.Learner, "run", lambda self, *a: (runs.append(1), run(self, *a))[1])
    resumed.calibrate(SAMPLES, limit=8, folder=tmp_path / "kept", resume=True)
    assert len(runs) == 1
    whole = quantized("adaround")
    assert resumed.quantize().model.SerializeToString() == whole.model.SerializeToString()
