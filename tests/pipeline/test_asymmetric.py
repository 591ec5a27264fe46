"""Asymmetric calibration in the pipeline: better than rounding, deterministic, resumable, independent of padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.calibrators.search.carrier import Target
from onnxptq.errors import InputError
from onnxptq.recipe import Recipe
from onnxptq.report.data import Verdict
from onnxptq.running.sessions import session
from onnxptq.structure import Role, Window
from tests.passes.graphs import Builder

RNG = np.random.default_rng(3)


def network() -> bytes:
    """Two residual blocks of a LayerNormalization and two linears, a convolution in between; [2, 16, 16] tokens."""
    b = Builder(1)
    x = "x"
    for block in range(2):
        y = b.linear(b.norm(x, 16), b.floats(16, 32, scale=0.3), b.floats(32) if block else None)
        x = b.node("Add", x, b.linear(b.node("Gelu", y), b.floats(32, 16, scale=0.3), b.floats(16)))
        if not block:
            image = b.node("Reshape", b.node("Transpose", x, perm=[0, 2, 1]), b.ints(2, 16, 4, 4))
            image = b.node(
                "Conv", image, b.const(b.floats(16, 16, 3, 3, scale=0.1)), pads=[1, 1, 1, 1], kernel_shape=[3, 3]
            )
            x = b.node("Transpose", b.node("Reshape", image, b.ints(2, 16, 16)), perm=[0, 2, 1])
    b.linear(x, b.floats(16, 8), b.floats(8), out="y")
    model, _ = b.build({"x": [2, 16, 16]}, ["y"])
    return model.to_proto().SerializeToString()


MODEL = network()
SAMPLES = [{"x": (RNG.standard_normal((2, 16, 16)) * np.linspace(0.2, 3, 16)).astype(np.float32)} for _ in range(25)]
CALIBRATED = 16
"""Samples to calibrate on, with a selection and without one."""


def quantize(
    samples: Any = SAMPLES, bits: str = "w4a4", folder: Path | None = None, resume: bool = False, **options: Any
) -> Quantizer:
    settings = {key.replace("__", "."): value for key, value in options.pop("settings", {}).items()}
    q = Quantizer(MODEL, bits=bits, include=[".*"], settings=settings, threads=options.pop("threads", 1))
    q.calibrate(samples, limit=CALIBRATED, folder=folder, resume=resume)
    return q


def sqnr(q: Quantizer) -> float:
    found = q.quantize().report.outputs["y"].sqnr
    assert found is not None
    return found


def test_better_than_rounding() -> None:
    whole, rounded = quantize(), quantize(settings={"weights__calibrator": "omse"})
    assert sqnr(whole) > sqnr(rounded) + 0.5


@pytest.mark.parametrize("step", ["solve", "gptq", "debias", "bias", "residual"])
def test_every_step_can_be_left_out(step: str) -> None:
    alone = {"selection": "off"}
    whole, without = (
        q.quantize().model.SerializeToString()
        for q in (quantize(), quantize(settings={**alone, f"weights__{step}": "false"}))
    )
    assert whole != without


def verdicts(q: Quantizer) -> tuple[Verdict, ...]:
    assert q.calibration is not None
    return q.calibration.verdicts


def kept(q: Quantizer) -> str:
    (one,) = (verdict for verdict in verdicts(q) if verdict.kept)
    return one.candidate


def test_the_selection_keeps_what_does_better_and_says_so() -> None:
    first = quantize()
    assert [verdict.candidate for verdict in verdicts(first)] == ["auto", "auto, weights rounded one by one", "omse"]
    assert kept(first) == "auto"
    assert first.quantize().report.selection == verdicts(first)
    second = quantize(settings={"weights__bias": "false", "weights__damp": "1000.0"})
    assert kept(second) == "auto, weights rounded one by one"
    assert {
        c.calibrator for c in second.plan().values() if c.params is not None and c.calibrator == "asymmetric"
    } == set()
    rounded = quantize(settings={"weights__calibrator": "omse"})
    assert [verdict.candidate for verdict in verdicts(rounded)] == ["auto", "omse"]
    assert second.quantize().model.graph == rounded.quantize().model.graph
    unselected = quantize(settings={"selection": "off"})
    assert not verdicts(unselected)
    assert unselected.quantize().model.graph == first.quantize().model.graph


def test_a_whole_other_recipe_may_be_kept() -> None:
    settings = {
        "activations__calibrator": "minmax",
        "activations__scheme": "uniform",
        "activations__bits": "2",
        "selection": "rounded,omse",
    }
    q = quantize(settings=settings)
    assert kept(q) == "omse"
    assert {change.pass_name for change in q.changes} <= {"fold-bn"}, "nor are the folds of the recipe kept"
    plain = Quantizer(MODEL, recipe="omse", bits="w4a4", include=[".*"], threads=1)
    plain.calibrate(SAMPLES, limit=CALIBRATED)
    assert q.quantize().model.graph == plain.quantize().model.graph
    with pytest.raises(InputError, match=r"selection: no recipe 'omsee'; did you mean 'omse'"):
        quantize(settings={"selection": "omsee"})


def test_what_each_step_brings() -> None:
    """The selection tries the recipe with other settings too, and may keep one of these."""
    q = quantize(settings={"selection": "+weights.debias=false,+folds=off,minmax+weights.calibrator=omse"})
    ways: dict[str, dict[str, str]] = {
        "auto": {},
        "auto+weights.debias=false": {"weights__debias": "false"},
        "auto+folds=off": {"folds": "off"},
    }
    assert [verdict.candidate for verdict in verdicts(q)] == [*ways, "minmax+weights.calibrator=omse"]
    assert len({verdict.sqnr for verdict in verdicts(q)}) == 4
    for verdict, settings in zip(verdicts(q), ways.values(), strict=False):
        assert verdict.sqnr == verdicts(quantize(settings={"selection": "omse", **settings}))[0].sqnr, (
            "what is shared is as if found anew"
        )
    alone = quantize(settings={"selection": "off", **ways[kept(q)]})
    assert q.quantize().model.graph == alone.quantize().model.graph
    recipe = Recipe.load("auto", {"steps": "on"})
    assert "+weights.gptq=false" in recipe.selection
    for entry in recipe.selection:
        assert (
            entry == "rounded"
            or recipe.baseline(entry).rules != recipe.rules
            or recipe.baseline(entry).passes != recipe.passes
        )
    for wrong, message in (("+folds", "write NAME"), ("+folds=of", "folds=of"), ("omse+fold=off", "no such setting")):
        with pytest.raises(InputError, match=message):
            Recipe.load("auto", {"selection": wrong})


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("debais", "false", r"'debais'.*'debias'"),
        ("damp", "-1.0", r"not in 0 \.\. 1e\+06"),
        ("gptq", "3", "expected true or false"),
        ("damp", "yes", "expected a number"),
    ],
)
def test_a_strange_step_is_refused(option: str, given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(settings={f"weights__{option}": given})


def test_the_same_every_time_and_within_any_memory() -> None:
    once = quantize().quantize().model.SerializeToString()
    q = Quantizer(MODEL, bits="w4a4", include=[".*"], threads=2)
    q.calibrate(SAMPLES, limit=CALIBRATED, memory_limit=100)
    assert q.quantize().model.SerializeToString() == once


def test_resumed_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxptq.calibration.checkpoint import Checkpoint
    from onnxptq.calibrators.search import two_streams

    once = quantize().quantize().model.SerializeToString()
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    real, calls = two_streams.refit, []

    def refit(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(two_streams, "refit", refit)
    with pytest.raises(KeyboardInterrupt):
        quantize(folder=tmp_path / "resume")
    assert quantize(folder=tmp_path / "resume", resume=True).quantize().model.SerializeToString() == once
    assert len(calls) == 4 + 6 - 3


def test_the_plan_alone_gives_the_same_file() -> None:
    first = quantize()
    again = Quantizer(MODEL, bits="w4a4", include=[".*"], threads=1, plan=first.plan())
    again.calibrate(SAMPLES, limit=CALIBRATED)
    assert again.quantize().model.SerializeToString() == first.quantize().model.SerializeToString()


def test_weights_alone() -> None:
    assert sqnr(quantize(bits="w4a32")) > sqnr(quantize(bits="w4a32", settings={"weights__calibrator": "minmax"})) + 1


def test_padded_tokens_do_not_matter(minis: Callable[..., Any]) -> None:
    """What stands in padded tokens changes no weight, where attention's values have static ranges (their own hold
    padded tokens too)."""
    from onnxptq.models import mini

    samples = mini.samples("bert", 6)
    mask = next(name for name in samples[0] if "mask" in name)
    token = next(
        name
        for name in samples[0]
        if samples[0][name].shape == samples[0][mask].shape and name != mask and "id" in name
    )
    static = {"value.scheme": "uniform", "value.calibrator": "minmax", "value.granularity": "tensor"}
    made = []
    for fill in (0, 7):
        changed = []
        for sample in samples:
            held = {name: array.copy() for name, array in sample.items()}
            held[mask][:, -3:] = 0
            held[token][:, -3:] = fill
            changed.append(held)
        q = Quantizer(minis("bert").path, bits="w4a4", threads=1, settings=static)
        plan = q.calibrate(changed)
        made.append({key: choice.params for key, choice in plan.items() if plan.sites[key].role is Role.WEIGHT})
    for key, params in made[0].items():
        assert params == made[1][key], key


@pytest.mark.parametrize(("stride", "pad", "dilation"), [(1, 1, 1), (2, 0, 1), (2, 1, 2), (1, 2, 2)])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_convolution_is_a_linear_on_its_windows(rank: int, stride: int, pad: int, dilation: int) -> None:
    b = Builder(0)
    shape = [2, 3, 9, 8][: 2 + rank]
    weight = b.floats(4, 3, *[3] * rank)
    geometry = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "dilations": [dilation] * rank}
    b.node("Conv", "x", b.const(weight), out="y", kernel_shape=[3] * rank, **geometry)
    model, _ = b.build({"x": shape}, ["y"])
    x = b.floats(*shape)
    wanted = session(model.to_proto(), threads=1).run(["y"], {"x": x})[0]
    window = Window((3,) * rank, (stride,) * rank, (pad,) * 2 * rank, (dilation,) * rank)
    target = Target("c", "x", np.ascontiguousarray(weight.reshape(4, -1).T), 4, window=window)
    rows = target.pick(x, np.arange(target.count(x.shape)))
    assert np.allclose(rows @ target.weight, np.moveaxis(wanted, 1, -1).reshape(-1, 4), atol=1e-4)
    assert np.array_equal(target.kernel(target.weight), weight)
