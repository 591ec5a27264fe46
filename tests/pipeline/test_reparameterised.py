"""RepQ-ViT's quantizer is kept at the inputs of the folded linears, and only where the plan asks for it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.ops import schemes
from onnxptq.ops.uniform import UniformParams
from onnxptq.quantizer import Quantizer
from onnxptq.structure import Role, discover
from tests.passes.graphs import Builder, run

RNG = np.random.default_rng(0)


def graph() -> tuple[object, list[dict[str, np.ndarray]]]:
    b = Builder(0)
    scale = np.exp(b.floats(16) * 1.5).astype(np.float32)
    x = b.norm("x", 16, scale, b.floats(16))
    b.linear(x, b.floats(16, 8), out="y")
    model, _ = b.build({"x": [40, 16]}, ["y"])
    return model, [{"x": b.floats(40, 16)} for _ in range(4)]


@pytest.mark.parametrize(("settings", "kept"), [({}, True), ({"linear_input.calibrator": "omse"}, False)])
def test_the_folded_quantizer_stays(settings: dict[str, str], kept: bool) -> None:
    model, feeds = graph()
    q = Quantizer(model.to_proto(), recipe="repq-vit", bits="w8a4", include=[".*"], settings=settings, threads=1)  # type: ignore[attr-defined]
    plan = q.calibrate(feeds)
    (choice,) = (plan[key] for key in plan if plan.sites[key].role is Role.LINEAR_INPUT)
    (change,) = (one for one in q.changes if one.pass_name == "ln-reparam" and one.done)
    codes = change.data["codes"]
    assert isinstance(choice.params, UniformParams)
    same = float(choice.params.scale) == np.float32(codes["scale"]) and int(choice.params.zero) == codes["zero"]
    assert same == kept
    if not kept:
        return
    (linear,) = discover(q.model).linears.values()
    moved = np.concatenate([run(q.model, [one], [linear.input])[0][linear.input] for one in feeds])
    factor, offset = np.array(change.data["factors"]), np.array(change.data["offsets"])
    rows = (moved + offset) * factor
    coded = (schemes()["uniform"].fake(moved, choice.params) + offset) * factor
    step = factor * codes["scale"]
    low = -(codes["zero"] * codes["scale"] - offset) * factor
    inside = (rows >= low) & (rows <= low + 15 * step)
    assert (np.abs(coded - rows) <= step / 2 * 1.001)[inside].all(), "each channel has its own step"
