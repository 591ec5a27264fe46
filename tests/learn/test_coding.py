"""Quantized activations with gradients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxptq.calibration.edges import Edge  # noqa: E402
from onnxptq.learn.coding import Coding  # noqa: E402
from onnxptq.ops import schemes  # noqa: E402
from onnxptq.ops.uniform import affine  # noqa: E402

CPU = torch.device("cpu")
X = np.array([-3.0, -0.4, 0.26, 0.9, 5.0], np.float32)


def test_values_are_those_of_the_op_and_gradients_those_of_learned_steps() -> None:
    params = affine(-1.0, 2.0, 4)
    coding = Coding(params, CPU)
    assert coding.scale is not None
    scale = coding.scale.requires_grad_()
    x = torch.from_numpy(X).requires_grad_()
    made = coding(x, torch.zeros(()))
    np.testing.assert_allclose(made.detach().numpy(), schemes()["uniform"].fake(X, params), rtol=1e-6)
    made.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    step, zero = float(params.scale), int(params.zero)
    ratio = X / step
    inside = np.rint(ratio) - ratio
    want = np.where(X < -1, -zero, np.where(X > 2, 15 - zero, inside)).sum()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(want), rel=1e-4)


def test_other_schemes_pass_the_gradient_on() -> None:
    coding = Coding(None, CPU)
    x = torch.from_numpy(X).requires_grad_()
    made = coding(x, torch.full((5,), 7.0))
    made.sum().backward()
    assert made.tolist() == [7.0] * 5
    assert x.grad is not None
    assert x.grad.tolist() == [1.0] * 5


def test_what_is_dropped_stays_float() -> None:
    coding, seen = Coding(affine(-1.0, 2.0, 2), CPU), dict[str, torch.Tensor]()
    hooks = coding.hooks(Edge("x", "y"), seen, lambda made: torch.tensor([True, False, True, False, True]))
    x = hooks["x"](torch.from_numpy(X))
    made = hooks["y"](torch.zeros(5))
    assert [bool(a == b) for a, b in zip(made, x, strict=True)] == [True, False, True, False, True]
