"""Sensitivities: as each site quantized alone, to first order; curves fall with the width."""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxptq import Quantizer
from onnxptq.bits import Bits
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.split import Samples
from onnxptq.lower import native
from onnxptq.pipeline.config import RunContext
from onnxptq.pipeline.sensitivity import SAMPLES as SEEN
from onnxptq.pipeline.sensitivity import Sensitivity, by_layer, coded, curve
from onnxptq.pipeline.stages import fold
from onnxptq.plan import Plan
from onnxptq.running.compare import models
from tests.pipeline.test_asymmetric import MODEL, SAMPLES

PLAIN = {"passes": "off", "selection": "off", "activations.calibrator": "minmax"}


def quantizer() -> Quantizer:
    return Quantizer(MODEL, bits="w4a4", include=[".*"], settings=PLAIN, threads=1)


@cache
def found() -> dict[str, Sensitivity]:
    return quantizer().sensitivities(SAMPLES[:8])


def test_as_each_site_alone() -> None:
    q = quantizer()
    source = open_source(SAMPLES[:8], inputs=input_specs(q.prepared.model, frozenset()), seed=0)
    samples = Samples(source, source, source)
    folded = fold(q.prepared, samples, q.config, RunContext())
    plan = coded(folded, 4, samples, q.config, RunContext())
    ratios = []
    for key in plan:
        proto = native.lower(folded.model, folded.structure, Plan({plan.sites[key]: plan[key]})).proto
        sqnr = models(folded.model.to_proto, proto, SAMPLES[:SEEN])["y"].sqnr
        assert sqnr is not None
        ratios.append(found()[key].errors[4] * 10 ** (sqnr / 10))
    assert np.all((np.array(ratios) > 0.6) & (np.array(ratios) < 1.7)), ratios


def test_errors_fall_with_the_width() -> None:
    for one in found().values():
        errors = [one.errors[width] for width in range(2, 9)]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 20 * errors[-1] > 0


def test_a_curve_follows_the_sites_own_error() -> None:
    assert curve(0.5, {2: 8.0, 4: 1.0, 6: 2.0}) == {2: 4.0, 4: 0.5, 6: 0.5}
    assert curve(0.0, {2: 0.0, 4: 0.0}) == {2: 0.0, 4: 0.0}


def test_layers_share_the_whole_error() -> None:
    layers = by_layer(found(), Bits(4, 8))
    assert abs(sum(layer.share for layer in layers) - 1) < 1e-9
    assert [layer.share for layer in layers] == sorted((layer.share for layer in layers), reverse=True)
    assert layers[0].weight > layers[0].rest
