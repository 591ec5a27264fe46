"""The quantizers that the fold of RepQ-ViT leaves behind: the inputs of its linears keep them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from onnxptq.ops.uniform import UniformParams
from onnxptq.passes.base import Change
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role

OBSERVER = "percentile"
"""The calibrator by which the fold found the ranges of the channels: a site with another one asked for other ranges."""


def kept(plan: Plan, changes: Iterable[Change]) -> Plan:
    """The plan with the scale and zero-point of each fold at its linears, which a new search would only make worse."""
    found: dict[str, Choice] = {}
    for change in changes:
        codes: dict[str, Any] = change.data.get("codes", {})
        for linear in codes.get("linears", ()):
            key = f"{linear}:{Role.LINEAR_INPUT}"
            choice = plan.get(key)
            if choice is None or not _asks_for_it(choice) or choice.bits != codes["bits"]:
                continue
            scale, zero = np.array(codes["scale"], np.float32), np.array(codes["zero"], np.uint8)
            found[key] = replace(choice, params=UniformParams(choice.bits, scale, zero))
    return plan.replace(found)


def _asks_for_it(choice: Choice) -> bool:
    form = (choice.scheme, choice.calibrator, choice.granularity, choice.symmetric)
    return form == ("uniform", OBSERVER, "tensor", False) and choice.params is None
