"""What a package says about itself in its metadata: what it takes and gives, and what a runtime needs to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxptq.graph.quantized import OWN
from onnxptq.report.introduction import PREFIX, introduced
from onnxptq.version import __version__

TOLD = ("bits", "recipe", "format", "target", "accuracy")
"""Of each quantized part."""


def about(
    own: Mapping[str, str], parts: Sequence[onnx.ModelProto], domains: Sequence[str], opset: int
) -> dict[str, str]:
    """The entries of a package of ``parts``, whose nodes are of ``domains``; ``own`` are those of its layout."""
    words = {PREFIX + key: text for key, text in own.items()} | {PREFIX + "needs": needs(domains, opset)}
    for one in parts:
        if said := introduced(one):
            words[PREFIX + "version"] = __version__
            name = one.graph.input[0].name.partition("/")[0]
            words[PREFIX + name] = ", ".join(f"{key} {said[key]}" for key in TOLD if key in said)
    return words


def needs(domains: Sequence[str], opset: int) -> str:
    """What a runtime must have."""
    found = [f"a runtime for ONNX opset {opset}"]
    if "ai.onnx.contrib" in domains:
        found.append(
            "the op library of onnxruntime-extensions, registered in the session (in Python "
            "onnxruntime_extensions.get_library_path())"
        )
    if OWN in domains:
        found.append(
            "onnxruntime 1.27 or later; the op library of onnxptq (path: `onnxptq library`) makes it faster and is not "
            "needed"
        )
    return "; ".join(found)
