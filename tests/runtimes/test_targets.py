"""One request, every target: masks of the zoo's SAM in its own runtime agree with those of FP32 there."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest

from onnxptq import Quantizer
from onnxptq.datasets import zoo
from onnxptq.errors import InputError
from onnxptq.running import runtimes
from onnxptq.running.sessions import session
from onnxptq.targets.rules import check
from onnxptq.targets.target import Target
from tests.runtimes.conftest import HERE, missing

SCENES = 25
EXACT = "onnxruntime, not optimised"
WHERE = {
    "onnxptq": "onnxptq",
    "onnxruntime": "onnxruntime",
    "web": "web",
    "openvino": "openvino",
    "tensorrt": EXACT,
    "qnn": EXACT,
}
"""The runtime of each target's file here. TensorRT and QNN need their hardware; for them onnxruntime computes what the
file says, without its optimizer, whose products with INT8 weights saturate on some CPUs."""


def answers(runtime: str, model: onnx.ModelProto, samples: list[Any]) -> list[Any]:
    """The outputs of each sample."""
    if runtime == EXACT:
        opened = session(model, executor="function", threads=1, optimize=False)
        names = [output.name for output in opened.get_outputs()]
        return [dict(zip(names, opened.run(names, sample), strict=True)) for sample in samples]
    (found,) = runtimes.runs(runtime, [model], samples)
    return list(found.outputs)


@functools.cache
def original(part: str) -> onnx.ModelProto:
    return onnx.load(zoo.path(f"sam-mini-{part}"))


@functools.cache
def quantized(part: str, target: str) -> onnx.ModelProto:
    quantizer = Quantizer(original(part), bits="w8a8", target=target, threads=1)
    plain = session(original("encoder"), executor="function", threads=1)
    samples: Any = zoo.encoder_calibration(16) if part == "encoder" else zoo.decoder_calibration(plain, 16)
    quantizer.calibrate(list(samples))
    made: onnx.ModelProto = quantizer.quantize().model
    return made


@pytest.mark.slow
@pytest.mark.parametrize("target", WHERE)
def test_masks_agree(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    runtime = WHERE[target]
    try:
        runtimes.require("onnxruntime" if runtime == EXACT else runtime)
    except InputError as error:
        missing(str(error))
    scenes, masks = list(zoo.prompt_samples("val", SCENES)), []
    names = {value.name for value in original("decoder").graph.input}
    for encoder, decoder in (
        (original("encoder"), original("decoder")),
        (quantized("encoder", target), quantized("decoder", target)),
    ):
        seen = answers(runtime, encoder, [scene.encoder_feeds for scene in scenes])
        feeds = [
            {k: v for k, v in scene.decoder_feeds(next(iter(one.values()))).items() if k in names}
            for scene, one in zip(scenes, seen, strict=True)
        ]
        drawn = answers(runtime, decoder, feeds)
        masks.append([next(a for a in one.values() if a.ndim == 4)[:, 0] > 0 for one in drawn])
    overlaps = [
        (a & b).sum() / max((a | b).sum(), 1)
        for one, other in zip(*masks, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    assert 100 * np.mean(overlaps) >= 99.3
    # The zoo's encoder has an open batch size, which QNN does not take; `--shape` fixes it.
    findings = check(quantized("encoder", target), Target.load(target).rules)
    assert [one for one in findings if one.rule.name != "fixed-shapes"] == []
