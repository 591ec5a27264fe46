"""The executor equals onnxruntime: canonical models of every family and both exporters, the embedded ones, our ops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxptq import Quantizer  # noqa: E402
from onnxptq.datasets import zoo  # noqa: E402
from onnxptq.graph.canonical import canonicalise  # noqa: E402
from onnxptq.graph.load import load  # noqa: E402
from onnxptq.graph.model import Model  # noqa: E402
from onnxptq.learn.executor import Executor  # noqa: E402
from onnxptq.lower import native  # noqa: E402
from onnxptq.ops import schemes, specs  # noqa: E402
from onnxptq.running.metrics import metrics  # noqa: E402
from onnxptq.running.sessions import session  # noqa: E402
from tests.ops.cases import CASES, Case  # noqa: E402
from tests.ops.conftest import model_of  # noqa: E402
from tests.ops.test_ops import check, expected  # noqa: E402

NAMES = ("sam-encoder", "sam-decoder", "bert", "vit", "swin", "cnn", "lavt")
Feeds = Mapping[str, np.ndarray]


def same(model: Model, feeds: Feeds) -> None:
    """Every output within 1e-4 of its maximum, and of onnxruntime's type and shape."""
    opened = session(model.to_proto(), threads=1)
    feeds = {given.name: feeds[given.name] for given in opened.get_inputs()}
    names = [output.name for output in opened.get_outputs()]
    got = Executor(model).run(feeds)
    assert list(got) == names
    for name, wanted in zip(names, opened.run(names, feeds), strict=True):
        assert got[name].dtype == wanted.dtype
        assert got[name].shape == wanted.shape
        assert np.abs(got[name] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


@pytest.mark.parametrize(
    ("name", "exporter", "batch"),
    [
        (name, *rest)
        for name, rest in itertools.product(NAMES, [("torchscript", False), ("torchscript", True), ("dynamo", True)])
    ],
)
def test_mini_models(name: str, exporter: str, batch: bool, minis: Callable[..., Any]) -> None:
    exported = minis(name, exporter, dynamic_batch=batch)
    same(canonicalise(load(exported.path)), exported.feeds)


def embedded() -> Iterator[tuple[str, Feeds]]:
    encoder = zoo.path("sam-mini-encoder")
    yield "sam-mini-encoder", zoo.encoder_calibration(1)[0]
    yield "sam-mini-decoder", zoo.decoder_calibration(session(encoder, threads=1), 1)[0]
    yield "lavt-mini", zoo.lavt_calibration(1)[0]


def test_embedded_models() -> None:
    for name, feeds in embedded():
        same(canonicalise(load(zoo.path(name))), feeds)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_own_ops(case: Case) -> None:
    for first in (case.inputs[0], *case.more):
        inputs = (first, *case.inputs[1:])
        model = model_of(case.op, inputs, constants=case.constants, differentiable=True, **case.attributes)
        feeds = {f"i{i}": value for i, value in enumerate(inputs) if value is not None and i not in case.constants}
        for got, wanted in zip(Executor(model).run(feeds).values(), expected(case, *inputs), strict=True):
            check(got, wanted, loose=case.loose)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", [name for name, scheme in schemes().items() if scheme.ops is not None])
def test_pairs_of_schemes(name: str, bits: int) -> None:
    """Codes bit for bit, and values of codes."""
    scheme = schemes()[name]
    x = np.concatenate(
        [np.random.default_rng(bits).normal(size=200), [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38]]
    ).astype(np.float32)
    for p in list(scheme.grid(-2.0, 3.0, bits))[::17]:
        given = tuple(p.inputs().values())
        for op, source in ((f"{scheme.ops}QuantizeLinear", x), (f"{scheme.ops}DequantizeLinear", scheme.encode(x, p))):
            model = model_of(op, (source, *given), bits=bits, differentiable=True, **p.attributes())
            got = Executor(model).run({f"i{i}": value for i, value in enumerate((source, *given))})["o0"]
            wanted = scheme.encode(x, p) if source is x else scheme.decode(source, p)
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(("name", "recipe"), [("vit", "ptq4sam-s"), ("cnn", "minmax"), ("bert", "minmax")])
def test_quantized_models(name: str, recipe: str, minis: Callable[..., Any]) -> None:
    """Quantized models whose function bodies multiply in floats, 4-bit weights included."""
    quantizer = Quantizer(minis(name).path, recipe=recipe, bits="w4a6", threads=1)
    plan = quantizer.calibrate(limit=2)
    found = quantizer.model, quantizer.structure, plan
    proto = native.with_ops(*found, constants="fp32", in_floats=frozenset(specs())).proto
    feeds = minis(name).feeds
    wanted = session(proto, executor="function", threads=1).run(None, dict(feeds))
    for got, want in zip(Executor(proto).run(feeds).values(), wanted, strict=True):
        assert metrics(want, got).sqnr > 50
