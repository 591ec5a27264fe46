"""drq: uniform and dual-region codes of a product's operands, searched in turns (PTQ4ViT; DRQ of PTQ4RIS)."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.gradients import gradient_of
from onnxptq.calibration.statistics.base import F32, F64, Request, Statistic
from onnxptq.calibration.statistics.rows import Whole
from onnxptq.calibrators.base import MOST_ROWS, REGISTRY, Joint, Member, Together, require_values
from onnxptq.calibrators.search.blocks import Blocks, Channels, Mixtures, Rows, Scores, Windows
from onnxptq.calibrators.search.products import Ranges, Regions, SearchedOperand, SearchedProduct, Tries, published_sum
from onnxptq.errors import InputError
from onnxptq.ops.dual_region import gelu_regions, softmax_regions
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site, Window

REGIONS = ("midpoint", "bare", "sum")
METRICS = ("fisher", "mse")


@dataclass(frozen=True)
class Options:
    """Options of the search; the defaults are the papers'."""

    metric: str = "fisher"
    """Weight of an element's squared error: its squared gradient of the likelihood (``fisher``), or 1 (``mse``)."""
    alpha: float = 0.01
    beta: float = 1.2
    n: int = 100
    """Ranges tried: the extrema times alpha + i (beta - alpha) / n, i < n."""
    rounds: int = 3
    splits: int = 20
    """Splits of the softmax tried: 2^-m, m < splits."""
    rows: int = 16
    """Rows of each sample (for attention: of one of its windows) on which errors are measured."""
    regions: str = "midpoint"
    """Threshold between the softmax's regions: ``midpoint``, or ``bare`` (the split itself); ``sum``: as midpoint, but
    searched by the published sum."""
    aligned: bool = False
    """True if the scales of GELU's two regions must differ by a power of two."""

    @classmethod
    def of(cls, choice: Choice) -> Options:
        """The options of a choice."""
        return cls(**REGISTRY["drq"].settings(choice.options))

    @property
    def factors(self) -> tuple[float, ...]:
        """The factors of the extrema."""
        return tuple(self.alpha + i * (self.beta - self.alpha) / self.n for i in range(self.n))


class Drq(Joint):
    """Least sum of (g dO)^2 over sampled rows of a product's output O, with g the gradient of O.

    Linears, and convolutions on their windows: first the weight, by output channel (granularity ``channel``), by the
    blocks of q, k and v (``block``) or as one; then the input. Scores: q, then k. Attention's output: the split of the
    softmax with v in float, then v. The operands take turns up to ``rounds`` times. Other operands (of transposed
    convolutions, and those in groups) are searched by their own squared error. Inputs that are never negative (after a
    ReLU) have unsigned codes. Dual-region codes: splits (softmax), or ranges of the positive side (GELU).
    """

    name = "drq"
    options: ClassVar[Mapping[str, Any]] = {f.name: f.default for f in fields(Options)}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"regions": REGIONS, "metric": METRICS}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "alpha": (1e-6, 100),
        "beta": (1e-6, 100),
        "n": (1, 10000),
        "rounds": (1, 100),
        "splits": (1, 100),
        "rows": (1, MOST_ROWS),
    }

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The checked options; ``alpha`` must be less than ``beta``."""
        found = super().settings(given)
        if not found["alpha"] < found["beta"]:
            raise InputError(f"calibrator 'drq': alpha = {found['alpha']} must be less than beta = {found['beta']}")
        return found

    def weighs(self, choice: Choice) -> bool:
        """True with metric ``fisher``."""
        return bool(choice.options.get("metric", Options.metric) == "fisher")

    def together(self, members: Sequence[Member]) -> Together:
        """One walk."""
        options = Options.of(members[0][1])
        sites = {site.role: (site, choice) for site, choice in members}
        if Role.QUERY in sites or Role.KEY in sites:
            return (yield from _attention(sites, (Role.QUERY, Role.KEY), Scores, options))
        if Role.SOFTMAX in sites or Role.VALUE in sites:
            return (yield from _attention(sites, (Role.SOFTMAX, Role.VALUE), Mixtures, options))
        if Role.MATMUL_INPUT not in sites:
            held = cast(Whole, (yield Request(members[0][0].consumer, Whole()))).value
            window = members[0][1].options.get("window")
            if held.ndim == 2 or window is not None:
                return (yield from _linear(members, held, options, Window(**window) if window is not None else None))
        done = {}
        for site, choice in members:
            done[site.key] = yield from _own(site, choice, options)
        return done


def _attention(
    sites: Mapping[Role, Member], roles: tuple[Role, Role], kind: type[Blocks], options: Options
) -> Together:
    """Both operands of a product of activations."""
    first, heads = (
        next(iter(sites.values()))[0],
        max(int(choice.options.get("heads", 1)) for _, choice in sites.values()),
    )
    names = (first.tensor, first.partner) if first.role is roles[0] else (first.partner, first.tensor)
    weighted = options.metric == "fisher"
    partners = (names[1], *([gradient_of(first.output)] if weighted else []))
    seen = cast(Blocks, (yield Request(names[0], kind(options.rows, heads, weighted=weighted), partners=partners)))
    require_values(first, seen.count)
    parts = list(zip(*seen.stacked(), strict=True))
    sides = []
    for number, role in enumerate(roles):
        side = SearchedOperand(parts[number], sees_float=role is Role.SOFTMAX)
        if role in sites:
            site, choice = sites[role]
            per_head = choice.granularity == "head"
            side.axis = 1 if per_head else None
            low, high = seen.extrema["left" if number == 0 else "right"]
            if per_head:
                low, high = low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)
            side.tries = _tries(
                site, choice, np.asarray(low if per_head else low.min()), np.asarray(high if per_head else high.max())
            )
        sides.append(side)
    SearchedProduct(sides[0], sides[1], parts[2] if weighted else None).search(
        [s for s in sides if s.tries is not None], options.rounds
    )
    return {sites[r][0].key: _done(*sites[r], side) for r, side in zip(roles, sides, strict=True) if r in sites}


def _linear(members: Sequence[Member], held: F32, options: Options, window: Window | None = None) -> Together:
    """Weight and input of a linear, or of a convolution on its windows."""
    weight = next((m for m in members if m[0].role is Role.WEIGHT), None)
    inputs = next((m for m in members if m[0].role is not Role.WEIGHT), None)
    one = members[0][0]
    weighted = options.metric == "fisher"
    request = Request(
        inputs[0].tensor if inputs is not None else one.partner,
        Rows(options.rows, weighted=weighted) if window is None else Windows(options.rows, window, weighted=weighted),
        partners=(gradient_of(one.output),) if weighted else (),
    )
    seen = cast(Blocks, (yield request))
    require_values(one, seen.count)
    rows, *gradients = (np.concatenate(part, axis=1)[None] for part in zip(*seen.blocks, strict=True))
    left, right = SearchedOperand([rows]), SearchedOperand([_columns(held, 1 if window is None else 0)])
    if inputs is not None:
        left.tries = _tries(*inputs, *seen.whole("left"))
    if weight is not None:
        right = _weight(held, *weight)
    SearchedProduct(left, right, gradients or None).search(
        [side for side in (right, left) if side.tries is not None], options.rounds
    )
    return {m[0].key: _done(*m, side, held.ndim) for m, side in ((weight, right), (inputs, left)) if m is not None}


def _own(site: Site, choice: Choice, options: Options) -> Generator[Request, Statistic, Choice]:
    """An operand by its own squared error."""
    rank = 2
    if site.role is Role.WEIGHT:
        held = cast(Whole, (yield Request(site.consumer, Whole()))).value
        side, rank = _weight(held, site, choice), held.ndim
    else:
        kind = Rows if site.role is Role.MATMUL_INPUT else Channels
        seen = cast(Blocks, (yield Request(site.tensor, kind(options.rows, weighted=False))))
        require_values(site, seen.count)
        side = SearchedOperand([np.concatenate([block[0] for block in seen.blocks], axis=1)[None]])
        side.tries = _tries(site, choice, *seen.whole("left"))
    SearchedProduct(None, side).search([side], options.rounds)
    return _done(site, choice, side, rank)


def _columns(held: F32, axis: int) -> F32:
    """A weight as [inputs and places, outputs]; ``axis`` is that of the outputs."""
    return np.moveaxis(held, axis, -1).reshape(-1, held.shape[axis])


def _weight(held: F32, site: Site, choice: Choice) -> SearchedOperand:
    """A weight as [inputs and places, outputs]."""
    matrix = _columns(held, site.axis)
    side = SearchedOperand([matrix])
    low, high = (
        np.minimum(matrix.min(axis=0), 0).astype(np.float64),
        np.maximum(matrix.max(axis=0), 0).astype(np.float64),
    )
    if choice.granularity == "channel":
        side.axis = 3
    elif choice.granularity == "block":
        labels = choice.options.get("blocks", np.zeros(len(low), np.int64))
        side.axis, side.units = 3, np.unique(labels, return_inverse=True)[1]
        low = np.array([low[side.units == unit].min() for unit in side.units])
        high = np.array([high[side.units == unit].max() for unit in side.units])
    else:
        low, high = np.asarray(low.min()), np.asarray(high.max())
    side.tries = _tries(site, choice, low, high)
    return side


def _tries(site: Site, choice: Choice, low: F64, high: F64) -> Tries:
    """The candidates of one operand, by its own options, which may differ from the other one's."""
    options = Options.of(choice)
    if choice.scheme == "uniform":
        signed = choice.symmetric and (site.role is Role.WEIGHT or bool((low < 0).any()))
        return Ranges(np.minimum(low, 0), np.maximum(high, 0), choice.bits, signed, options.factors)
    if choice.scheme != "dual_region":
        raise InputError(
            f"site {site.key}: calibrator 'drq' is for schemes 'uniform' and 'dual_region', not {choice.scheme!r}"
        )
    if site.role is Role.SOFTMAX:
        splits = [softmax_regions(choice.bits, m, midpoint=options.regions != "bare") for m in range(options.splits)]
        return Regions(splits, splits[0], published_sum) if options.regions == "sum" else Regions(splits, splits[0])
    largest = float(np.max(high)) / (2 ** (choice.bits - 1) - 0.5)
    scales = [factor * largest for factor in options.factors]
    if options.aligned:
        lowest = float(gelu_regions(choice.bits, 1.0).scale_low)
        powers = range(
            *(math.floor(math.log2(max(s, 1e-30) / lowest)) + n for n, s in ((0, scales[0]), (2, scales[-1])))
        )
        scales = [lowest * 2.0**m for m in powers]
    return Regions([gelu_regions(choice.bits, scale) for scale in scales], gelu_regions(choice.bits, largest))


def _done(site: Site, choice: Choice, side: SearchedOperand, rank: int = 2) -> Choice:
    """The choice with the parameters found; a weight's parameters broadcast along its channel axis."""
    assert side.tries is not None
    params = side.tries.params(side.index)
    if isinstance(params, UniformParams) and site.role is Role.WEIGHT and params.scale.ndim:
        shape = [-1 if n == site.axis else 1 for n in range(rank)]
        params = UniformParams(choice.bits, params.scale.reshape(shape), params.zero.reshape(shape))
    return replace(
        choice, params=params, options={k: v for k, v in choice.options.items() if k not in ("blocks", "window")}
    )
