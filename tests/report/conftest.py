from __future__ import annotations

import math

import numpy as np
import pytest

from onnxptq.passes.base import Change
from onnxptq.report.data import Calibration, Drawing, Layer, Report, SiteReport, Sizes, Stage, Verdict
from onnxptq.running.metrics import Metrics
from onnxptq.structure import Part, Role

RANGES = {"low": [-3.0, 1.0, -1.0], "high": [1.0, 5.0, 1.0], "centre": [-1.0, 3.0, 0.0]}
DENSITY = {"densities": [[0.0, 1.0, 0.2, 1.1, 0.0]], "ranges": [[-4.0, 4.0]], "peaks": [[-2.0, 2.0]], "bimodal": [True]}
KINDS = ("linear", "attention", "linear", "linear")


def metric(sqnr: float | None, *, agreement: float | None = None) -> Metrics:
    return Metrics(4, sqnr, sqnr, sqnr if sqnr is None else sqnr - 1.5, 0.9991, 0.0312, 0.01, agreement)


def made_report(*, blocks: int = 12) -> Report:
    """A report of a run on a two-part model."""
    rng = np.random.default_rng(0)
    sites: list[SiteReport] = []
    layers: list[Layer] = []
    roles = (Role.LINEAR_INPUT, Role.WEIGHT, Role.QUERY, Role.KEY, Role.VALUE, Role.SOFTMAX, Role.GELU)
    for block in range(blocks):
        part = Part.VISUAL if block < blocks * 2 // 3 else Part.DECODER
        for role in roles:
            values = np.abs(rng.standard_t(3, 5000)) if role is Role.SOFTMAX else rng.standard_t(3, 5000)
            counts, edges = np.histogram(values, 300)
            scheme = "log_base" if role is Role.SOFTMAX else "uniform"
            levels = (
                [float(2 ** (-i / 2)) for i in range(63)] + [0.0]
                if role is Role.SOFTMAX
                else np.linspace(-5, 5, 16 if block % 2 else 64).tolist()
            )
            sites.append(
                SiteReport(
                    key=f"/image_encoder/blocks.{block}/attn/MatMul_{role.value}:{role.value}",
                    tensor=f"t{block}.{role.value}",
                    role=role,
                    part=part,
                    scheme=scheme,
                    calibrator="omse",
                    bits=6,
                    bits_per_element=6.02,
                    granularity="channel" if role is Role.WEIGHT else "tensor",
                    params="tau 2" if role is Role.SOFTMAX else "-5 .. 5",
                    sqnr=float(rng.normal(30, 6)),
                    drawing=Drawing.of(counts, edges, levels),
                )
            )
        layers += [
            Layer(f"/blocks.{block}/{kind}_{i}", part, kind, metric(60 - 2.5 * block - i))
            for i, kind in enumerate(KINDS)
        ]
    changes = [
        Change("center-keys", f"/blocks.{b}/attn/Softmax", "keys shifted by up to 3.21", data=RANGES)
        for b in range(blocks)
    ]
    changes.append(
        Change("center-keys", "/blocks.3/attn/Softmax", "left alone: k feeds something else too", done=False)
    )
    changes.append(Change("bimodal", "/blocks.4/attn/Softmax", "bimodal; 7 of 64 channels mirrored", data=DENSITY))
    changes.append(Change("smooth", "/blocks.4/norm1", "factors from 0.5 to 2", data={"factors": [2.0, 0.5, 1.0, 0.0]}))
    changes.append(Change("fold-bn", "/neck/BatchNormalization", "folded into /neck/Conv"))
    return Report(
        model="sam_encoder.onnx",
        recipe="auto",
        bits="w6a6",
        format="native",
        sizes=Sizes(342_300_000, 69_800_000, 339_000_000, 63_900_000),
        calibration=Calibration("32 images of photos", 32, 4),
        sites=tuple(sites),
        outputs={"masks": metric(31.4, agreement=0.9871), "scores": metric(42.0), "labels": metric(None)},
        output_file="sam_encoder.w6a6.onnx",
        settings={"preprocess": "imagenet", "seed": "0", "constants": "fp16"},
        structure={"linears": 48, "convolutions": 3, "attentions": 12},
        stages=(Stage("load", 1.2, 900_000_000), Stage("calibrate", 254.0, 7_300_000_000), Stage("verify", 3.0, None)),
        layers=tuple(layers),
        changes=tuple(changes),
        drift={"masks": 131.2, "scores": float("inf")},
        selection=(Verdict("auto", 98.71, 31.4, kept=True), Verdict("omse", None, 24.25)),
        warnings=("pattern 'nope' matches no site; `onnxptq inspect` lists them",),
        notes=("relative position was left in float",),
        environment={"onnxptq": "0.1.0", "onnxruntime": "1.31.1", "executor": "native, avx512_vnni"},
    )


def degenerate_report() -> Report:
    """The smallest valid report, with every figure missing or infinite."""
    site = SiteReport(
        "<b>:weight",
        "w",
        Role.WEIGHT,
        Part.TEXT,
        "uniform",
        "minmax",
        8,
        8.0,
        "channel",
        sqnr=math.inf,
        drawing=Drawing((), (), ()),
    )
    other = SiteReport("c:softmax", "p", Role.SOFTMAX, Part.TEXT, "row", "token", 8, 8.0, "row")
    layers = tuple(Layer(f"l{i}", Part.TEXT, "conv", metric(s)) for i, s in enumerate((math.inf, -math.inf, None)))
    outputs = {"y": Metrics(1, -math.inf, -math.inf, -math.inf, None, math.inf, 0.0, None, 3)}
    return Report(
        "m.onnx", "auto", "w8a8", "qdq", Sizes(0, 0), Calibration("synthetic", 1), (site, other), outputs, layers=layers
    )


@pytest.fixture
def report() -> Report:
    return made_report()


@pytest.fixture
def degenerate() -> Report:
    return degenerate_report()
