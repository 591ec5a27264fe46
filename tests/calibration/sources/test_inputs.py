"""Inputs that a model declares."""

from __future__ import annotations

import numpy as np

from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.graph.model import Model
from tests.graph.build import model, run


def test_numbers_that_become_sizes_are_sizes_in_synthetic_samples() -> None:
    proto = model(
        "g (float[1,2,8,8] x, float[2] size, float[2] shift) => (float[1,2,h,w] y) {"
        " lead = Constant<value_ints=[1,2]>() whole = Cast<to=7>(size) sizes = Concat<axis=0>(lead, whole)"
        ' r = Resize<mode="linear">(x, , , sizes) axes = Constant<value_ints=[0,2,3]>() s = Unsqueeze(shift, axes)'
        " y = Add(r, s) }",
        opset=18,
    )
    specs = input_specs(Model.from_proto(proto))
    assert {spec.name: spec.size for spec in specs} == {"x": False, "size": True, "shift": False}
    source = open_source("synthetic", inputs=specs, samples=1, preprocess="raw", seed=0, shapes={})
    (y,) = run(proto, dict(next(source.iterate(0))))
    assert y.shape == (1, 2, 64, 64)
    assert np.isfinite(y).all()
