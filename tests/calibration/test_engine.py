"""The engine: statistics equal NumPy's for all groups, threads and sharing; errors name tensor and sample."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.jobs import jobs_of
from onnxptq.calibration.statistics.base import F32, Observed, Request, Several, Statistic
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import AverageRange, Moments, Range
from onnxptq.calibration.statistics.rows import RowSample, Whole
from onnxptq.errors import InputError
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.graph.model import Model
from onnxptq.running import sessions as runtime
from tests.calibration.small import encoder, mlp, model, samples, sentences, source


def truth(held: Model, given: list[dict[str, NDArray[Any]]], *names: str) -> list[dict[str, NDArray[Any]]]:
    """Tensors by plain onnxruntime, sample by sample."""
    proto = held.to_proto()
    del proto.graph.output[:]
    proto.graph.output.extend(type(proto.graph.input[0])(name=name) for name in names)
    session = runtime.session(proto, executor="function", threads=1)
    return [dict(zip(names, session.run(None, sample), strict=True)) for sample in given]


def fetching(held: Model, given: Any, **options: Any) -> Engine:
    return Engine(held, source(held, given), observers=False, **{"threads": 1, **options})


def test_tensors_inputs_constants_and_weights_of_nodes() -> None:
    held, given = mlp(), samples()
    requests = {
        "h": Request("h", Range(-1)),
        "x": Request("x", Moments()),
        "w": Request("w", Range()),
        "of node": Request("MatMul_2", Whole()),
        "y": Request("y", AverageRange()),
    }
    engine = fetching(held, given)
    found = cast(Any, engine.fill(requests, stage="walk"))
    values = truth(held, given, "h", "y")
    np.testing.assert_array_equal(found["h"].low, np.min([v["h"].min(axis=(0, 1)) for v in values], axis=0))
    assert found["x"].mean == pytest.approx(np.mean([s["x"] for s in given]))
    assert found["y"].high == pytest.approx(np.mean([v["y"].max() for v in values]))
    constants = {c.name: c.values for c in held.constants()}
    assert found["w"].low == constants["w"].min()
    np.testing.assert_array_equal(found["of node"].value, constants["v"])
    assert [(w.stage, w.forwards, w.fetched, w.tapped) for w in engine.walks] == [("walk", len(given), 3, 0)]


def test_constants_alone_need_no_walk() -> None:
    held = mlp()
    engine = fetching(held, samples())
    engine.fill({"w": Request("w", Range())}, stage="nothing")
    assert engine.walks == []


def test_equal_requests_are_answered_once() -> None:
    held, given = mlp(), samples()
    engine = fetching(held, given)
    found = cast(
        Any, engine.fill({str(i): Request("h", Several(Histogram(), Range())) for i in range(3)}, stage="walk")
    )
    assert engine.walks[0].fetched == 2
    for other in "12":
        np.testing.assert_array_equal(found["0"].members[0].counts, found[other].members[0].counts)
        assert found["0"].members[1].high == found[other].members[1].high


def arrays(found: Mapping[str, Statistic]) -> dict[str, bytes]:
    return {f"{name} {key}": a.tobytes() for name, statistic in found.items() for key, a in statistic.arrays().items()}


def statistics() -> dict[str, Request]:
    return {
        f"{name} {number}": Request(name, statistic)
        for name in ("h", "g", "y")
        for number, statistic in enumerate((Range(), Moments(-1), Histogram(), RowSample(5), AverageRange(-1)))
    }


def test_groups_within_the_memory_limit_change_nothing() -> None:
    held, given = mlp(), samples()
    whole, parted = fetching(held, given), fetching(held, given, memory_limit=2 * 6 * 16 * 4)
    assert arrays(whole.fill(statistics(), stage="walk")) == arrays(parted.fill(statistics(), stage="walk"))
    assert whole.walks[0].forwards == len(given)
    assert parted.walks[0].forwards == 3 * len(given)


@pytest.mark.parametrize("observers", [False, True])
def test_threads_change_nothing(observers: bool) -> None:
    held = mlp()
    given = samples(3, batch=400)
    engines = [Engine(held, source(held, given), threads=n, observers=observers) for n in (1, 2)]
    one, two = (arrays(engine.fill(statistics(), stage="walk")) for engine in engines)
    assert one == two


def test_nan_inside_the_model_names_tensor_and_sample() -> None:
    held = model("(float[2] x) => (float[2] y) { h = Log(x) y = Exp(h) }")
    given = [{"x": np.array([1, 2], np.float32)}, {"x": np.array([1, -2], np.float32)}]
    with pytest.raises(InputError, match=r"calibration sample 1: tensor 'h' holds NaN or infinity"):
        fetching(held, given).fill({"h": Request("h", Histogram())}, stage="walk")


def test_a_sample_that_onnxruntime_refuses_is_named() -> None:
    held = model("(float[n] x, float[m] z) => (float[k] y) { y = Add(x, z) }")
    given = [{"x": np.ones(3, np.float32), "z": np.ones(n, np.float32)} for n in (3, 2)]
    with pytest.raises(InputError, match="calibration sample 1: onnxruntime cannot run it"):
        fetching(held, given).fill({"y": Request("y", Range())}, stage="walk")


def test_an_unknown_tensor_is_our_own_fault() -> None:
    held = mlp()
    with pytest.raises(KeyError, match="no tensor 'nothing'"):
        fetching(held, samples()).fill({"z": Request("nothing", Range())}, stage="walk")


def test_only_the_first_samples_where_no_more_are_wanted() -> None:
    held, given = mlp(), samples()
    engine = fetching(held, given)
    found = cast(Any, engine.fill({"h": Request("h", Range(), samples=1), "w": Request("w", Range())}, stage="walk"))
    assert found["h"].high == truth(held, given, "h")[0]["h"].max()
    assert engine.walks[0].forwards == 1


class Products:
    """Sum of the products of two tensors: a statistic with a partner."""

    total = 0.0

    def update(self, x: F32, other: F32) -> None:
        self.total += float((x * other).sum())

    def merge(self, other: Products) -> Products:
        raise NotImplementedError

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"total": np.array(self.total)}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.total = float(arrays["total"])


def test_partners_come_along() -> None:
    held, given = mlp(), samples()
    products = Products()
    fetching(held, given).fill({"hg": Request("h", cast(Statistic, products), partners=("g",))}, stage="walk")
    expected = sum(float((v["h"] * v["g"]).sum()) for v in truth(held, given, "h", "g"))
    assert products.total == pytest.approx(expected)


def test_searches_advance_in_lock_step() -> None:
    held, given = mlp(), samples()
    order: list[str] = []

    def search(name: str, rounds: int) -> Generator[Request, Statistic, str]:
        for number in range(rounds):
            seen = yield Request("h", Range())
            assert cast(Range, seen).count
            order.append(f"{name}{number}")
        return name * rounds

    engine = fetching(held, given)
    found = engine.drive({"a": search("a", 2), "b": search("b", 0), "c": search("c", 3)}, stage="search")
    assert found == {"a": "aa", "b": "", "c": "ccc"}
    assert order == ["a0", "c0", "a1", "c1", "c2"]
    assert [walk.stage for walk in engine.walks] == ["search", "search, round 2", "search, round 3"]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", ["e", "q0", "q", "v", "p", "a", "o"])
def test_padded_tokens_are_left_out(name: str, dynamic: bool) -> None:
    held, given = encoder(dynamic=dynamic), sentences()
    seen = RowSample(1000)
    Engine(held, source(held, given), masks={"mask": "ids"}, observers=False, threads=1).fill(
        {"t": Request(name, seen)}, stage="walk"
    )
    expected = []
    for sample, value in zip(given, truth(held, given, name), strict=True):
        x = value[name] if value[name].ndim == 4 else value[name][:, None]
        for b, length in enumerate(sample["mask"].sum(axis=1)):
            expected += [*x[b, :, :length].reshape(-1, x.shape[-1])]
    assert len(seen.sample) == len(expected)
    assert sorted(map(tuple, seen.sample)) == sorted(map(tuple, expected))


def test_padding_with_a_statistic_of_heads() -> None:
    held, given = encoder(), sentences()
    seen = Range(-3, 2)
    Engine(held, source(held, given), masks={"mask": ""}, observers=False).fill({"q": Request("q", seen)}, stage="walk")
    highs = [
        value["q"][b, :, :length].max(axis=(1, 2))
        for sample, value in zip(given, truth(held, given, "q"), strict=True)
        for b, length in enumerate(sample["mask"].sum(axis=1))
    ]
    np.testing.assert_array_equal(seen.high, np.max(highs, axis=0))


@pytest.mark.parametrize("depth", range(3))
def test_tokens_behind_the_channels(depth: int) -> None:
    """A convolution's input: [batch, channels, tokens], where sentences differ in length."""
    seen = RowSample(1000, 1)
    request: Observed = seen
    for _ in range(depth):
        request = Several(request)
    lengths, values = (2, 5, 3), np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    (job,) = jobs_of({"t": Request("t", request)}, {"t": Padding("mask", -1)})
    for length in lengths:
        job.fold(values, [], {"mask": np.arange(5)[None] < length})
    assert sorted(map(tuple, seen.sample)) == sorted(
        tuple(values[0, :, t]) for length in lengths for t in range(length)
    )


def test_a_request_may_name_the_mask_itself() -> None:
    held, given = encoder(), sentences()
    named, found = Range(), Range()
    Engine(held, source(held, given), observers=False).fill(
        {"e": Request("e", named, mask="mask", rows=1)}, stage="walk"
    )
    Engine(held, source(held, given), masks={"mask": "ids"}, observers=False).fill(
        {"e": Request("e", found)}, stage="walk"
    )
    assert (named.low, named.high, named.count) == (found.low, found.high, found.count)
    assert named.count == 8 * sum(int(s["mask"].sum()) for s in given)
