"""Padding: rows of tokens that a mask input switches off, excluded from every statistic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, Axes
from onnxptq.graph.dataflow.tokens import Padding, token_axes
from onnxptq.graph.model import Model
from onnxptq.running.runner import Cut, Outputs, Sample


def channels_follow(channels: Axes, axis: int) -> bool:
    """Whether all axes up to the tokens can be merged without affecting the channels."""
    return all(axis < a < 0 for a in ((channels,) if isinstance(channels, int) else channels or ()))


def valid_rows(x: F32, mask: NDArray[Any], axis: int, channels: Axes) -> F32:
    """``x`` without its padded tokens; ``mask`` is [batch, ..., tokens], zero where padded.

    The axes before the tokens count the batch, or the batch times something else (heads). ``x`` is returned whole if
    tokens and mask do not fit, or if tokens are the channels. All axes up to the tokens are merged, unless channels are
    among them.
    """
    tokens = (mask if mask.ndim > 1 else mask.reshape(1, -1)) != 0
    tokens = tokens.reshape(len(tokens), -1)
    axis = axis - x.ndim if axis >= 0 else axis
    kept = [a - x.ndim if a >= 0 else a for a in ((channels,) if isinstance(channels, int) else channels or ())]
    if -axis > x.ndim or axis in kept or tokens.all():
        return x
    end = x.ndim + axis + 1
    fits = x.shape[axis] == tokens.shape[1] or (end == 1 and x.shape[0] == tokens.size)
    lead = math.prod(x.shape[:end])
    if not fits or lead % tokens.size:
        return x
    if channels_follow(channels, axis):
        repeated = np.broadcast_to(tokens[:, None], (len(tokens), lead // tokens.size, tokens.shape[1]))
        flat: F32 = x.reshape(lead, *x.shape[end:])[repeated.reshape(-1)]
        return flat
    repeat = x.shape[0] // len(tokens)
    parts = [x[b * repeat : (b + 1) * repeat].compress(tokens[b], axis=axis) for b in range(len(tokens))]
    whole: F32 = np.concatenate(parts, axis=axis)
    return whole


@dataclass(frozen=True)
class Unpadded:
    """Removes padded tokens: a Cut."""

    paddings: Mapping[str, Padding]

    def __call__(self, outputs: Outputs, sample: Sample) -> Outputs:
        """Outputs or inner tensors of a sample without them."""
        return {name: self._valid(name, x, sample) for name, x in outputs.items()}

    def _valid(self, name: str, x: F32, sample: Sample) -> F32:
        padding = self.paddings.get(name)
        return x if padding is None else valid_rows(x, np.asarray(sample[padding.mask]), padding.axis, ())


def unpadded(model: Model, masks: Mapping[str, str]) -> Cut:
    """Removes the padded tokens of a sample's outputs or inner tensors: nobody reads them, so no figure counts them."""
    return Unpadded(token_axes(model, masks))
