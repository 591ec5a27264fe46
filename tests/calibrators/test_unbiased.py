"""unbiased: outputs of grouped convolutions keep their means."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.running.sessions import session
from tests.graph.build import model


def means(calibrator: str, *, group: int, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean error and spread of each output channel of a convolution whose inputs have large means."""
    rng = np.random.default_rng(0)
    proto = model(
        "g (float[1,8,9,9] x) => (float[1,8,7,7] y) { h = Conv(x, first) r = Relu(h) g = Conv<group = "
        f"{group}>(r, w{', b' if bias else ''}) y = Relu(g) }}",
        first=np.abs(rng.normal(size=(8, 8, 1, 1))).astype(np.float32),
        w=np.abs(rng.normal(size=(8, 8 // group, 3, 3))).astype(np.float32),
        **({"b": rng.normal(size=8).astype(np.float32)} if bias else {}),
    )
    samples = [{"x": rng.normal(1, 0.3, size=(1, 8, 9, 9)).astype(np.float32)} for _ in range(8)]
    q = Quantizer(
        proto,
        recipe="minmax",
        bits="w3a32",
        settings={"weights.calibrator": calibrator},
        include=["."],
        exclude=["first"],
        threads=1,
    )
    q.calibrate(samples)
    assert {choice.calibrator for choice in q.plan().values()} >= {calibrator if group > 1 else "omse"}
    runs = [session(m, threads=1) for m in (proto, q.quantize().model)]
    before, after = (np.concatenate([r.run(None, s)[0] for s in samples]) for r in runs)
    return (after - before).mean(axis=(0, 2, 3)), before.std(axis=(0, 2, 3))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [2, 8])
def test_means_stay(group: int, bias: bool) -> None:
    rounded, _ = means("omse", group=group, bias=bias)
    unbiased, spread = means("unbiased", group=group, bias=bias)
    assert np.abs(unbiased).max() < 0.1 * spread.max()
    assert np.abs(unbiased).max() < 0.2 * np.abs(rounded).max()


def test_plain_convolutions_are_left_to_the_fallback() -> None:
    assert means("unbiased", group=1, bias=True)[0].tolist() == means("omse", group=1, bias=True)[0].tolist()
