"""Every pass on every kind of model from both exporters: exact, and applied wherever it is legal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxptq.calibration.engine import Engine  # noqa: E402
from onnxptq.calibration.sources.opening import open_source  # noqa: E402
from onnxptq.calibration.sources.source import InputSpec  # noqa: E402
from onnxptq.graph.canonical import canonicalise  # noqa: E402
from onnxptq.graph.load import load  # noqa: E402
from onnxptq.graph.model import Model  # noqa: E402
from onnxptq.models import mini  # noqa: E402
from onnxptq.passes.base import Passed, run_passes  # noqa: E402
from onnxptq.structure import discover  # noqa: E402
from tests.passes.graphs import Feeds, run  # noqa: E402

DONE = {
    "sam-encoder": {"center-keys": 3, "center-values": 3, "smooth": 6, "ln-reparam": 6, "mix-qk": 3, "mix-values": 3},
    "sam-decoder": {
        "center-keys": 7,
        "center-values": 7,
        "balance-qk": 7,
        "smooth": 1,
        "ln-reparam": 1,
        "mix-qk": 7,
        "mix-values": 7,
    },
    "bert": {"center-keys": 2, "center-values": 2, "balance-qk": 2, "mix-qk": 2, "mix-values": 2},
    "vit": {
        "center-keys": 2,
        "center-values": 2,
        "balance-qk": 2,
        "smooth": 4,
        "ln-reparam": 4,
        "mix-qk": 2,
        "mix-values": 2,
    },
    "swin": {
        "center-keys": 4,
        "center-values": 4,
        "balance-qk": 4,
        "smooth": 9,
        "ln-reparam": 9,
        "mix-qk": 4,
        "mix-values": 4,
    },
    "cnn": {"fold-bn": 9},
    "lavt": {
        "fold-bn": 6,
        "pointwise": 24,
        "center-keys": 6,
        "center-values": 6,
        "balance-qk": 6,
        "smooth": 13,
        "ln-reparam": 13,
        "mix-qk": 6,
        "mix-values": 6,
    },
}
SCOPE = {one: {"scope": "all"} for one in ("bimodal", "mix-qk", "mix-values")}


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    torch.set_num_threads(1)
    kept: Path = request.config.cache.mkdir("minis")
    return kept


@cache
def loaded(name: str, folder: Path) -> tuple[Model, Feeds]:
    model = canonicalise(load(mini.cached(name, folder).path))
    return model, mini.samples(name, 2)


def go(model: Model, feeds: Feeds, chosen: Mapping[str, Mapping[str, object]]) -> Passed:
    inputs = [InputSpec(t.name, np.dtype(t.dtype), feeds[0][t.name].shape) for t in model.graph.inputs]
    engine = Engine(model, open_source(feeds, inputs=inputs, preprocess="none"), threads=1)
    return run_passes(
        model,
        chosen,
        discover=discover,
        fill=lambda now, requests, stage: engine.fill(requests, stage=stage, model=now),
        outputs=lambda now: run(now, feeds),
    )


@pytest.mark.parametrize("name", list(DONE))
def test_each_pass(name: str, folder: Path) -> None:
    model, feeds = loaded(name, folder)
    for one in (
        "fold-bn",
        "pointwise",
        "center-keys",
        "center-values",
        "balance-qk",
        "mix-qk",
        "mix-values",
        "smooth",
        "ln-reparam",
    ):
        passed = go(model.copy(), feeds, {one: SCOPE.get(one, {})})
        assert sum(change.done for change in passed.changes) == DONE[name].get(one, 0), one
        assert all(decibels > 110 for decibels in passed.drift.values()), one


@pytest.mark.parametrize("name", list(DONE))
def test_all_passes_together(name: str, folder: Path) -> None:
    model, feeds = loaded(name, folder)
    chosen = (
        "fold-bn",
        "center-keys",
        "center-values",
        "bimodal",
        "balance-qk",
        "mix-qk",
        "mix-values",
        "smooth",
        "ln-reparam",
    )
    passed = go(model.copy(), feeds, {one: SCOPE.get(one, {}) for one in chosen})
    alone = DONE[name].get("pointwise", 0)
    assert (
        sum(change.done for change in passed.changes if change.pass_name != "bimodal")
        == sum(DONE[name].values()) - alone
    )
    assert all(decibels > 105 for decibels in passed.drift.values())


def test_fusion_as_linears(folder: Path) -> None:
    """Text encoder and attention to words: linears without the mean over tokens, and normalizations of their own."""
    model, feeds = loaded("lavt", folder)
    passed = go(
        model.copy(),
        feeds,
        {"pointwise": {}, "center-tokens": {}, "ln-reparam": {"rule": "balanced", "copies": "text"}},
    )
    done = Counter(change.pass_name for change in passed.changes if change.done)
    assert done == Counter({"pointwise": 24, "center-tokens": 8, "ln-reparam": 16})
    assert all(decibels > 105 for decibels in passed.drift.values())
    assert not [conv for conv in passed.structure.convs if "fusion" in conv]


@pytest.mark.parametrize(("name", "counts"), [("bert", (0, 4, 4)), ("sam-decoder", (1, 1, 7)), ("lavt", (13, 15, 15))])
def test_whose_linears_get_normalizations(name: str, counts: tuple[int, ...], folder: Path) -> None:
    model, feeds = loaded(name, folder)
    done = []
    for copies in ("none", "text", "all"):
        passed = go(model.copy(), feeds, {"ln-reparam": {"copies": copies}})
        done.append(sum(change.done for change in passed.changes))
    assert tuple(done) == counts


def test_shifted_keys_of_a_decoder(folder: Path) -> None:
    """Keys of one mode moved to two at +-8: bimodal sees it and mirrors, center-keys takes it back."""
    model, feeds = loaded("sam-decoder", folder)
    structure = discover(model)
    image = {name: a for name, a in structure.attentions.items() if a.token_to_image}
    assert len(image) == 3
    moved = model.copy()
    rng = np.random.default_rng(0)
    for attention in image.values():
        bias = moved.tensor(structure.linears[attention.k_source.linear].bias)
        bias.values = bias.values + (8 * rng.choice([-1, 1], bias.values.shape)).astype(np.float32)
    before = run(model, feeds)
    for name, options in (("bimodal", {}), ("center-keys", {})):
        folded = moved.copy()
        passed = go(folded, feeds, {name: options})
        assert {c.where for c in passed.changes if c.done} >= set(image)
        for was, now in zip(before, run(folded, feeds), strict=True):
            assert all(np.abs(now[key] - was[key]).max() < 1e-3 * np.abs(was[key]).max() for key in was)
