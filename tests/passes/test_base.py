"""Running passes: options, shared walks, proofs, and errors that name the pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import onnxptq.passes
from onnxptq.calibration.statistics.base import Request
from onnxptq.errors import InputError
from onnxptq.graph.edit import set_constant
from onnxptq.graph.model import Model
from onnxptq.passes.base import REGISTRY, Asking, Change, Pass, run_passes
from onnxptq.passes.proof import drift
from onnxptq.structure import Structure
from tests.passes.graphs import Builder, run


class Peak:
    """Largest value seen."""

    high = 0.0

    def update(self, x: Any) -> None:
        self.high = max(self.high, float(x.max()))

    def merge(self, other: Peak) -> Peak:
        raise NotImplementedError

    def arrays(self) -> dict[str, Any]:
        raise NotImplementedError

    def load(self, arrays: dict[str, Any]) -> None:
        raise NotImplementedError


def model() -> Model:
    """a -> Mul 2 -> t -> Mul 3 -> y, and t -> Mul 5 -> z."""
    b = Builder()
    t = b.node("Mul", "a", b.const(np.float32(2), "two"), out="t")
    b.node("Mul", t, b.const(np.float32(3), "three"), out="y")
    b.node("Mul", t, b.const(np.float32(5), "five"), out="z")
    return b.build({"a": [4]}, ["y", "z"])[0]


def multiply(now: Model, name: str, factor: float) -> None:
    constant = now.tensor(name)
    node = constant.outputs[0]
    set_constant(now, node, 1, constant.values * factor)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Pass]]:
    """Passes of these tests only; gone afterwards."""
    monkeypatch.setattr(onnxptq.passes, "passes", lambda: {n: p for n, p in REGISTRY.items() if n not in shipped})
    shipped = set(REGISTRY)
    yield REGISTRY
    for name in set(REGISTRY) - shipped:
        del REGISTRY[name]


def define(name: str, *edits: tuple[str, float], **facts: Any) -> None:
    """A pass that multiplies constants; with ``reads`` it asks for the peak of t first."""

    def run_one(self: Pass, now: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        asked = {}
        if self.reads:
            asked = yield {"peak": Request("t", Peak())}
        for constant, factor in edits:
            multiply(now, constant, factor)
        what = f"{asked['peak'].high:g}" if asked else "nothing asked"
        return [Change(self.name, "t", what, done=bool(edits))]

    type(name, (Pass,), {"name": name, "run": run_one, **facts})


class Calls:
    """The callables that run_passes is given, counted."""

    feeds = ({"a": np.arange(4, dtype=np.float32)}, {"a": np.full(4, -1, np.float32)})

    def __init__(self) -> None:
        self.walks: list[list[str]] = []
        self.runs = self.discovered = 0

    def discover(self, now: Model) -> Structure:
        self.discovered += 1
        return Structure()

    def fill(self, now: Model, requests: Mapping[str, Request], stage: str) -> dict[str, Any]:
        self.walks.append(list(requests))
        for sample in run(now, self.feeds, [r.tensor for r in requests.values()]):
            for request in requests.values():
                request.statistic.update(sample[request.tensor])
        return {name: request.statistic for name, request in requests.items()}

    def outputs(self, now: Model) -> list[dict[str, Any]]:
        self.runs += 1
        return run(now, self.feeds)

    def go(self, now: Model, *names: str, **options: Any) -> Any:
        chosen = {name: options.get(name, {}) for name in names}
        return run_passes(now, chosen, discover=self.discover, fill=self.fill, outputs=self.outputs)


def test_an_exact_pass_is_proved_once(known: dict[str, Pass]) -> None:
    define("double", ("two", 2), ("three", 0.5), ("five", 0.5))
    define("half", ("two", 0.25), ("three", 4), ("five", 4))
    calls = Calls()
    passed = calls.go(model(), "double", "half")
    assert passed.drift == {"y": np.inf, "z": np.inf}
    assert (calls.runs, calls.walks) == (2, [])
    assert [c.pass_name for c in passed.changes] == ["double", "half"]


def test_outputs_are_not_kept_as_views(known: dict[str, Pass]) -> None:
    """A view of what a session put out keeps all of the session's memory, beside that of the next."""
    define("double", ("two", 2), ("three", 0.5), ("five", 0.5))
    calls, alive = Calls(), list[weakref.ref[Any]]()
    plain = calls.outputs

    def outputs(now: Model) -> list[dict[str, Any]]:
        assert not any(one() is not None for one in alive)
        found = plain(now)
        alive.extend(weakref.ref(array) for sample in found for array in sample.values())
        return found

    calls.outputs = outputs  # type: ignore[method-assign]
    calls.go(model(), "double")
    assert calls.runs == 2
    assert alive


def test_nothing_done_nothing_run(known: dict[str, Pass]) -> None:
    define("idle")
    calls = Calls()
    passed = calls.go(model(), "idle")
    assert (calls.runs, calls.discovered, passed.drift) == (0, 1, {})


@pytest.mark.parametrize("guilty", [[0], [1], [2], [3], [4], [0, 3], [1, 2], [0, 1, 2, 3, 4]])
def test_a_guilty_pass_is_left_out_and_the_others_stay(known: dict[str, Pass], guilty: list[int]) -> None:
    names = [f"p{i}" for i in range(5)]
    for i, name in enumerate(names):
        define(name, ("two", 2), ("three", 0.5), ("five", 0.5 if i not in guilty else 0.5002))
    now = model()
    passed = Calls().go(now, *names)
    assert [w.split("(")[0] for w in passed.warnings] == [
        f"pass 'p{i}' is left out: output 'z' moved by 0.0004 of its maximum " for i in guilty
    ]
    assert [(c.pass_name, c.done) for c in passed.changes] == [(n, i not in guilty) for i, n in enumerate(names)]
    assert now.tensor("two").values == 2 * 2 ** (5 - len(guilty))
    assert np.array_equal(Calls().outputs(now)[0]["z"], Calls().outputs(model())[0]["z"])


def test_half_precision_outputs_may_move_by_their_own_rounding(known: dict[str, Pass]) -> None:
    """float16 keeps 11 bits: two that were the same number before the last rounding may differ by 2^-10."""
    wanted = np.array([1.0, 0.25], np.float16)
    for factor, moved in ((1 + 2**-10, False), (1 + 2**-8, True)):
        _, (_, worst) = drift([{"y": wanted}], [{"y": (wanted * factor).astype(np.float16)}])
        assert (worst > 1e-4) is moved
        _, (_, worst) = drift([{"y": wanted.astype(np.float32)}], [{"y": (wanted * factor).astype(np.float32)}])
        assert worst > 1e-4


def test_a_drift_below_the_tolerance_is_measured(known: dict[str, Pass]) -> None:
    define("nearly", ("two", 2), ("three", 0.5), ("five", 0.5 * (1 + 1e-5)))
    drift = Calls().go(model(), "nearly").drift
    assert drift["y"] == np.inf
    assert drift["z"] == pytest.approx(100, abs=0.2)


def test_walks_are_shared_until_something_read_has_moved(known: dict[str, Pass]) -> None:
    define("first", ("two", 2), ("three", 0.5), ("five", 0.5), reads=frozenset({"key"}), moves=frozenset({"key"}))
    define("second", reads=frozenset({"value"}), moves=frozenset({"value"}))
    define("third", reads=frozenset({"key"}))
    calls = Calls()
    passed = calls.go(model(), "first", "second", "third")
    assert calls.walks == [["first:peak", "second:peak"], ["third:peak"]]
    assert [c.what for c in passed.changes] == ["6", "6", "12"]


def test_a_restructuring_pass_stands_alone(known: dict[str, Pass]) -> None:
    define("first", reads=frozenset({"key"}))
    define("cut", ("two", 2), ("three", 0.5), ("five", 0.5), restructures=True)
    define("last", reads=frozenset({"value"}))
    calls = Calls()
    passed = calls.go(model(), "first", "cut", "last")
    assert calls.walks == [["first:peak"], ["last:peak"]]
    assert calls.discovered == 2
    assert [c.what for c in passed.changes] == ["6", "nothing asked", "12"]


def test_a_pass_may_ask_again(known: dict[str, Pass]) -> None:
    class Twice(Pass):
        name = "twice"
        reads = frozenset({"key"})

        def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
            one = yield {"a": Request("t", Peak())}
            two = yield {"b": Request("y", Peak())}
            return [Change("twice", "t", f"{one['a'].high:g} {two['b'].high:g}", done=False)]  # type: ignore[attr-defined]

    calls = Calls()
    assert calls.go(model(), "twice").changes[0].what == "6 18"
    assert calls.walks == [["twice:a"], ["b"]]


def test_a_pass_without_statistics_is_a_plain_function(known: dict[str, Pass]) -> None:
    class Plain(Pass):
        name = "plain"

        def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> list[Change]:
            multiply(model, "three", 1.0)
            return [Change("plain", "t", "times one")]

    define("asks", reads=frozenset({"key"}))
    calls = Calls()
    assert [c.what for c in calls.go(model(), "plain", "asks").changes] == ["times one", "6"]
    assert calls.walks == [["asks:peak"]]


def test_wrong_names_and_options(known: dict[str, Pass]) -> None:
    define(
        "scale-all",
        options={"rule": "range", "share": 0.5, "count": 1, "deep": False},
        choices={"rule": ("range", "mean")},
        limits={"share": (0, 1)},
    )
    for names, options, message in [
        (["scale-al"], {}, "no pass is named 'scale-al'; did you mean 'scale-all'"),
        (["zzz"], {}, "no pass is named 'zzz'; known: scale-all"),
        (["scale-all"], {"rul": 1}, "no option 'rul'; did you mean 'rule'"),
        (["scale-all"], {"rule": "median"}, "option 'rule': 'median' is none of 'range', 'mean'"),
        (["scale-all"], {"share": "much"}, "option 'share': expected a number, got 'much'"),
        (["scale-all"], {"share": 1.5}, "option 'share': 1.5 is not in 0 .. 1"),
        (["scale-all"], {"share": float("nan")}, "option 'share': expected a number, got nan"),
        (["scale-all"], {"count": True}, "option 'count': expected a whole number, got True"),
        (["scale-all"], {"deep": 1}, "option 'deep': expected true or false, got 1"),
    ]:
        with pytest.raises(InputError, match=message):
            Calls().go(model(), *names, **{"scale-all": options})
    assert REGISTRY["scale-all"].settings({"share": 1}) == {"rule": "range", "share": 1, "count": 1, "deep": False}


def test_two_passes_of_one_name(known: dict[str, Pass]) -> None:
    define("same")
    with pytest.raises(TypeError, match="two passes are named 'same'"):
        define("same")


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.0, -2.0], [1.0, -2.5], 0.25),
        ([0.0, 0.0], [0.0, 0.5], 0.5),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([np.inf, 1.0], [np.inf, 1.5], 0.5),
        ([1.0], [1.0, 2.0], np.inf),
        ([], [], 0.0),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
        (np.array([True, False]), np.array([True, False]), 0.0),
    ],
)
def test_drift(before: Any, after: Any, moved: float) -> None:
    decibels, worst = drift([{"y": np.asarray(before)}], [{"y": np.asarray(after)}])
    assert worst[1] == moved
    assert (decibels["y"] == np.inf) == (moved == 0)
