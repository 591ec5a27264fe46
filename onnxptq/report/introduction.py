"""What a file says about itself: metadata that ``onnxptq inspect`` and every ONNX viewer show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import onnx

from onnxptq.report.data import Report
from onnxptq.version import __version__

PREFIX = "onnxptq."
LOAD = {
    "native": "any onnxruntime 1.27 or later; faster with the op library registered (path: `onnxptq library`)",
    "portable": "any runtime for ONNX opset 21",
    "qdq": "any runtime for ONNX opset 21 with QuantizeLinear and DequantizeLinear",
}
"""How a file of each format is loaded, if it is for no target."""


def introduction(report: Report, load: str | None = None) -> dict[str, str]:
    """Version, recipe, widths, target, samples, accuracy, and how to load the file. Nothing of it depends on the run's
    time or machine."""
    held = {
        "version": __version__,
        "recipe": report.recipe,
        "bits": report.bits,
        "format": report.format,
        "target": report.settings.get("target", ""),
        "calibration": _samples(report),
        "accuracy": _accuracy(report),
        "load": load or LOAD[report.format],
    }
    return {PREFIX + key: text for key, text in held.items() if text}


def introduce(proto: onnx.ModelProto, words: Mapping[str, str]) -> None:
    """Add the words to a model's metadata, after the original's own."""
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key not in words]
    del proto.metadata_props[:]
    for key, text in (*kept, *words.items()):
        proto.metadata_props.add(key=key, value=text)


def introduced(proto: onnx.ModelProto) -> dict[str, str]:
    """What a file says about itself; {} if it is none of ours."""
    found = {entry.key: entry.value for entry in proto.metadata_props}
    return {key.removeprefix(PREFIX): text for key, text in found.items() if key.startswith(PREFIX)}


def _samples(report: Report) -> str:
    """Numbers of samples: names of folders say nothing elsewhere, and may not be text."""
    held, kind = (
        report.calibration,
        "synthetic " if re.match(r"\d+ synthetic samples, seed", report.calibration.source) else "",
    )
    return f"{held.samples} {kind}samples to calibrate, {held.held_back} others to measure"


def _accuracy(report: Report) -> str:
    """Agreement of masks and SQNR of the worst output, to digits in which executors agree."""
    masks = [one.agreement for one in report.outputs.values() if one.agreement is not None]
    ratios = [one.sqnr for one in report.outputs.values() if one.sqnr is not None and math.isfinite(one.sqnr)]
    words = [f"masks agree with FP32's to {100 * min(masks):.0f} %"] if masks else []
    return ", ".join([*words, *([f"SQNR {min(ratios):.0f} dB"] if ratios else [])])
