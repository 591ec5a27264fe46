"""even-gelu: the same outputs, and one static scale then codes the output of a GELU far better."""

from __future__ import annotations

import numpy as np

from onnxptq.passes.even_gelu import LIMIT, factors
from onnxptq.quantizer import Quantizer
from tests.calibration.small import mlp


def test_factors() -> None:
    found = factors(np.array([8.0, 1, 1, 0, 1e9]), np.array([1.0, 1, 16, 1, 0]), 0.75)
    alive = np.array([8**0.75, 1, 0.5])
    np.testing.assert_allclose(found, [*(alive / np.exp(np.log(alive).mean())), 1, 1])
    assert factors(np.array([1e9, 1, 1, 1]), np.ones(4), 1.0).max() == LIMIT
    assert (factors(np.zeros(3), np.ones(3), 0.5) == 1).all()


def test_a_loud_channel_behind_a_gelu() -> None:
    held = mlp()
    loud = next(one for one in held.constants() if one.name == "w")
    loud.values = np.array(loud.values)
    loud.values[:, 3] *= 40
    rng = np.random.default_rng(0)
    given = [{"x": rng.standard_normal((2, 6, 8)).astype(np.float32)} for _ in range(6)]
    found = {}
    for passes in ("fold-bn", "fold-bn,even-gelu"):
        q = Quantizer(
            held.to_proto(), recipe="omse", bits="w32a4", settings={"passes": passes}, include=[".*"], threads=1
        )
        q.calibrate(given)
        changes = [one for one in q.changes if one.pass_name == "even-gelu"]
        assert [one.done for one in changes] == [True] * passes.endswith("gelu")
        assert all(ratio > 100 for ratio in q.calibration.solved.folded.drift.values())  # type: ignore[union-attr]
        found[passes] = q.quantize().report.outputs["y"].median
    before, after = found.values()
    assert before is not None
    assert after is not None
    assert after > before + 3
