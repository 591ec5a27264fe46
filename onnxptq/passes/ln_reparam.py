"""ln-reparam: fold a per-channel quantizer of a LayerNormalization's output into its scale and bias (RepQ-ViT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.graph.model import Model
from onnxptq.passes.base import Asking, Change, Pass
from onnxptq.passes.norms import Reading, fold, readings
from onnxptq.structure import Part, Structure

F64 = NDArray[np.float64]
ROWS = 2048
PERCENTILES = (0.999, 0.9999, 0.99999)
LIMIT = 20.0
"""Maximum factor of a channel, and inverse of the minimum: without a limit, dead channels would be blown up."""


class ReparameterizeLayerNorm(Pass):
    """Output x / r - m in each channel, so that one scale and zero-point fit all; undo r and m in the linears.

    1. The LayerNormalization's output goes to linears alone, channels in order.
    2. Rule ``repq``: r and m make the affine quantizers of the channels (percentile range, least squared error) equal:
       r = s_c / mean s, m = mean s (mean z - z_c), with the mean of z rounded to a code (RepQ-ViT, equations 7 to 10).
       The linears' inputs keep mean s and mean z (``pipeline.reparameterised``).
    3. Rule ``balanced``: m is the middle of the robust range, r the square root of deviation over weight.
    4. If the output has other readers too (the residual stream of a post-norm encoder), the linears named by ``copies``
       get their own normalization.
    5. Zero tokens that pad windows have to become -m. With ``padded`` = ``add`` an addition before the linears does
       this; with ``scale`` the linears' own normalization gets r and no m.
    """

    name = "ln-reparam"
    options: ClassVar[Mapping[str, Any]] = {
        "rule": "repq",
        "bits": 8,
        "quantile": 0.002,
        "padded": "add",
        "copies": "none",
    }
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "rule": ("repq", "balanced"),
        "padded": ("add", "scale"),
        "copies": ("none", "text", "all"),
    }
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"bits": (2, 8), "quantile": (0, 0.49)}
    reads = moves = frozenset({"norm"})

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """See the class."""
        text = {site.consumer for site in structure.sites if site.part is Part.TEXT}
        found = readings(model, structure, own={"none": (), "text": text, "all": structure.linears}[options["copies"]])
        legal = {name: read for name, read in found.items() if isinstance(read, Reading)}
        changes = [self.left(name, why) for name, why in found.items() if isinstance(why, str)]
        filled = yield {name: Request(read.output, RowSample(ROWS)) for name, read in legal.items()}
        for name, read in legal.items():
            rows = cast(RowSample, filled[name]).sample.astype(np.float64)
            if not rows.size:
                changes.append(self.left(name, "no tokens were seen"))
                continue
            codes: dict[str, Any] = {}
            if options["rule"] == "repq":
                even = repq(rows, options["bits"])
                factor, offset = even.factor, even.offset
                codes = {"bits": options["bits"], "scale": even.scale, "zero": even.zero}
            else:
                factor, offset = balanced(rows, np.linalg.norm(read.columns(model), axis=1), options["quantile"])
            plain = read.padded and options["padded"] == "scale"
            fold(model, read, factor, np.zeros_like(offset) if plain else offset)
            how = (
                " (no offset: windows are padded)"
                if plain
                else " (offset in front of the linears: windows are padded)"
                if read.padded
                else " (a normalization of their own)"
                if read.shared
                else ""
            )
            what = (
                f"channels divided by {factor.min():.3g} .. {factor.max():.3g} and centred for "
                f"{len(read.linears)} linears{how}"
            )
            data: dict[str, Any] = {"factors": factor.tolist(), "offsets": offset.tolist()}
            if codes and not plain:
                data["codes"] = codes | {"linears": [linear.name for linear in read.linears]}
            changes.append(Change(self.name, name, what, data=data))
        return changes


@dataclass(frozen=True)
class Even:
    """The fold of rule ``repq``, and the one quantizer that all channels then have."""

    factor: F64
    offset: F64
    scale: float
    zero: int


def repq(rows: F64, bits: int) -> Even:
    """r and m of rule ``repq``, and the mean step and zero-point, from rows of channels."""
    levels = 2**bits - 1
    steps, lows, errors = [], [], []
    for share in PERCENTILES:
        low, high = np.quantile(rows, (1 - share, share), axis=0)
        step = np.maximum(high - low, np.finfo(np.float32).tiny) / levels
        zero = np.round(-low / step)
        coded = np.clip(np.round(rows / step) + zero, 0, levels)
        steps.append(step)
        lows.append(low)
        errors.append(np.square((coded - zero) * step - rows).mean(axis=0))
    best = np.argmin(errors, axis=0)
    channel = np.arange(rows.shape[1])
    step, low = np.array(steps)[best, channel], np.array(lows)[best, channel]
    mean = float(step.mean())
    factor = np.clip(step / mean, 1 / LIMIT, LIMIT)
    zero = np.round(-low / (factor * mean))
    common = np.clip(np.round(zero.mean()), 0, levels)
    return Even(factor, mean * (common - zero), mean, int(common))


def balanced(rows: F64, weights: F64, quantile: float) -> tuple[F64, F64]:
    """r and m of rule ``balanced``, from the norm of each channel's weights."""
    low, high = np.quantile(rows, (quantile, 1 - quantile), axis=0)
    deviation = rows.std(axis=0)
    alive = (deviation > 0) & (weights > 0)
    factor = np.ones(rows.shape[1])
    factor[alive] = np.sqrt(deviation[alive] / weights[alive])
    factor /= np.exp(np.log(factor).mean())
    factor = np.clip(factor, 1 / LIMIT, LIMIT)
    return factor, (low + high) / 2 / factor
