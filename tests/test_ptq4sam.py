"""Recipe ptq4sam-s on the embedded SAM: scope, switches and accuracy, with keys as trained and with two modes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxptq.bits import Bits
from onnxptq.datasets import zoo
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.lower import native
from onnxptq.passes.linears import shift_output
from onnxptq.plan import Plan
from onnxptq.quantizer import Quantizer
from onnxptq.recipe import Recipe
from onnxptq.running.metrics import decibels
from onnxptq.running.sessions import session
from onnxptq.structure import Role, Site, Structure, discover

Samples = list[dict[str, NDArray[Any]]]
SITES = tuple(Site("t", f"n{i}", role, partner="v" if role is Role.SOFTMAX else "") for i, role in enumerate(Role))


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Decoder inputs of four scenes."""
    return list(zoo.decoder_calibration(session(zoo.path("sam-mini-encoder"), threads=1), 4))


@pytest.fixture(scope="module")
def heaps() -> onnx.ModelProto:
    """The decoder with all its keys moved by +-8 in each channel: the same model to a softmax."""
    model = canonicalise(load(zoo.path("sam-mini-decoder")))
    structure, rng = discover(model), np.random.default_rng(0)
    for attention in structure.attentions.values():
        assert attention.k_source is not None
        linear = structure.linears[attention.k_source.linear]
        shift_output(model, linear, 8 * rng.choice([-1.0, 1.0], linear.outputs))
    return model.to_proto()


def planned(part: str) -> tuple[Plan, Structure]:
    structure = discover(canonicalise(load(zoo.path(f"sam-mini-{part}"))))
    return Recipe.load("ptq4sam-s").plan(structure, Bits(4, 4))[0], structure


def test_the_encoders_scope_is_the_papers() -> None:
    plan, structure = planned("encoder")
    roles = Counter(site.role for site in plan.sites.values())
    blocks = 6
    assert roles[Role.WEIGHT] == 4 * blocks + 2, "qkv, proj and two linears a block; two convolutions of the neck"
    assert sum(roles.values()) - roles[Role.WEIGHT] == 8 * blocks + 2
    assert {roles[r] for r in (Role.QUERY, Role.KEY, Role.VALUE, Role.SOFTMAX, Role.GELU)} == {blocks}
    assert roles[Role.CONV_INPUT] == 2
    assert not any("patch_embed" in key for key in plan)
    assert len(structure.attentions) == blocks


def test_the_decoders_scope_is_the_papers() -> None:
    plan, structure = planned("decoder")
    roles = Counter(site.role for site in plan.sites.values())
    assert len(structure.attentions) == 7
    assert sum(a.token_to_image for a in structure.attentions.values()) == 3
    assert roles[Role.WEIGHT] == roles[Role.LINEAR_INPUT] == 4 * 7 + 2 * 2
    assert {roles[r] for r in (Role.QUERY, Role.KEY, Role.VALUE, Role.SOFTMAX)} == {7}
    assert set(roles) == {Role.WEIGHT, Role.LINEAR_INPUT, Role.QUERY, Role.KEY, Role.VALUE, Role.SOFTMAX}
    assert all("transformer/" in key for key in plan), (
        "upscaling, hypernetworks, prediction of quality and prompts stay float"
    )


def choices(settings: Mapping[str, str]) -> dict[Role, Any]:
    plan, _ = Recipe.load("ptq4sam-s", settings).plan(
        Structure(sites=tuple(s for s in SITES if s.role.value not in ("query", "key", "value"))), Bits(4, 4)
    )
    return {plan.sites[key].role: choice for key, choice in plan.items()}


def test_switches() -> None:
    assert Recipe.load("ptq4sam-s").passes == ("fold-bn", "bimodal")
    assert Recipe.load("ptq4sam-s", {"bimodal": "off"}).passes == ("fold-bn",)
    made = choices({})
    assert (made[Role.SOFTMAX].scheme, made[Role.SOFTMAX].calibrator) == ("log_base", "agq")
    assert (made[Role.LINEAR_INPUT].calibrator, made[Role.WEIGHT].calibrator) == ("avgomse", "omse")
    for settings in ({"agq": "off"}, {"softmax": "uniform"}):
        made = choices(settings)
        assert (made[Role.SOFTMAX].scheme, made[Role.SOFTMAX].calibrator) == ("uniform", "avgomse")
    assert choices({"softmax": "log2"})[Role.SOFTMAX].options["taus"] == [1.0]
    assert choices({"tau": "fine"})[Role.SOFTMAX].options["taus"] == "fine"
    assert choices({"objective": "map"})[Role.SOFTMAX].options["objective"] == "map"
    keys = Recipe.load("ptq4sam-s", {"observer": "avgminmax"}).choice(SITES[list(Role).index(Role.KEY)], 4)
    assert keys.calibrator == "avgomse", "as released in the decoder"
    keys = Recipe.load("ptq4sam-s", {"observer": "avgminmax", "keys": "avgminmax"}).choice(
        SITES[list(Role).index(Role.KEY)], 4
    )
    assert keys.calibrator == "avgminmax", "as released in the encoder"
    made = choices({"exponent": "2.0", "observer": "avgminmax"})
    assert made[Role.SOFTMAX].options["exponent"] == 2.0
    assert (made[Role.LINEAR_INPUT].calibrator, made[Role.SOFTMAX].calibrator) == ("avgminmax", "agq")


def made(source: Any, samples: Samples, recipe: str, bits: str, **settings: str) -> tuple[Quantizer, onnx.ModelProto]:
    quantizer = Quantizer(source, recipe=recipe, bits=bits, settings=settings, threads=1)
    plan = quantizer.calibrate(samples)
    return quantizer, native.lower(quantizer.model, quantizer.structure, plan).proto


def fidelity(proto: onnx.ModelProto, samples: Samples) -> float:
    """SQNR of the mask logits, dB."""
    quantized, original = session(proto, threads=1), session(zoo.path("sam-mini-decoder"), threads=1)
    pairs = [(original.run(["low_res_masks"], s)[0], quantized.run(["low_res_masks"], s)[0]) for s in samples]
    return float(np.median([decibels(float(np.square(a).sum()), float(np.square(a - b).sum())) for a, b in pairs]))


def test_keys_in_two_heaps_are_folded_and_centred_ones_are_as_good_as_new(
    heaps: onnx.ModelProto, samples: Samples
) -> None:
    found = {}
    for name, source, settings in (
        ("trained", zoo.path("sam-mini-decoder"), {}),
        ("off", heaps, {"bimodal": "off"}),
        ("bimodal", heaps, {}),
        ("everywhere", heaps, {"pass.bimodal.scope": "all"}),
        ("centred", heaps, {"passes": "fold-bn,center-keys"}),
    ):
        quantizer, proto = made(source, samples, "ptq4sam-s", "w4a4", **settings)
        found[name] = fidelity(proto, samples)
        folded = sum(change.done for change in quantizer.changes)
        assert folded == {"trained": 0, "off": 0, "bimodal": 3, "everywhere": 7, "centred": 7}[name]
    assert found["centred"] > found["everywhere"] > found["bimodal"] - 0.5
    assert found["centred"] > found["off"] + 1
    assert found["centred"] > found["trained"] - 1


def test_adaptive_codes_of_the_softmax_are_worth_having(samples: Samples) -> None:
    adaptive, uniform = (
        fidelity(made(zoo.path("sam-mini-decoder"), samples, "ptq4sam-s", "w8a4", **settings)[1], samples)
        for settings in ({}, {"agq": "off"})
    )
    assert adaptive > uniform + 0.5


def test_the_choice_of_all_rows(samples: Samples) -> None:
    taus = []
    for rows in (128, 10**6):
        quantizer = Quantizer(
            zoo.path("sam-mini-decoder"),
            recipe="ptq4sam-s",
            bits="w32a4",
            settings={"softmax.rows": str(rows), "bimodal": "off"},
            threads=1,
        )
        plan = quantizer.calibrate(samples)
        taus.append({key: (c.params.tau, c.params.scale) for key, c in plan.items() if c.scheme == "log_base"})  # type: ignore[union-attr]
    assert {key: tau for key, (tau, _) in taus[0].items()} == {key: tau for key, (tau, _) in taus[1].items()}
    for key, (_, scale) in taus[0].items():
        assert abs(np.log2(scale / taus[1][key][1])) < 1.1 / 12
