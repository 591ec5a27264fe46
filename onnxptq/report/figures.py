"""Figures of activations, as the papers draw them: keys before and after the passes, outputs of softmaxes and GELUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from onnxptq.calibration.statistics.base import Request, Statistic
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.graph.model import Model
from onnxptq.passes import passes
from onnxptq.passes.base import Change
from onnxptq.report import plots
from onnxptq.report.data import Drawing
from onnxptq.report.pages import render
from onnxptq.structure import Role, Structure

Fill = Callable[[Model, Mapping[str, Request]], Mapping[str, Statistic]]
SMALL = 0.01
"""The papers count the softmax outputs above it."""
BINS = 1 << 16
"""Fine enough to count the softmax values above ``SMALL``."""


@dataclass(frozen=True)
class Keys:
    """Keys of an attention: all values together, and the range of each channel (empty unless a single linear makes
    them)."""

    values: Drawing
    channels: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class AttentionFigure:
    """One attention."""

    name: str
    before: Keys
    after: Keys
    said: tuple[str, ...]
    """Reports of the passes that move keys."""
    softmax: Drawing
    above: float
    """Share of softmax outputs above ``SMALL``."""


@dataclass(frozen=True)
class Figures:
    """All figures of a model."""

    attentions: tuple[AttentionFigure, ...]
    gelus: Mapping[str, Drawing]


def gather(
    model: Model, structure: Structure, folded: Model, refound: Structure, changes: Sequence[Change], fill: Fill
) -> Figures:
    """Figures of ``model`` before and after its passes, each from one walk over the samples by ``fill``."""
    first = dict(_requests(structure))
    for name, attention in structure.attentions.items():
        first[f"softmax {name}"] = Request(attention.probabilities, Histogram(BINS))
    for site in structure.sites:
        if site.role is Role.GELU:
            first[f"gelu {site.consumer}"] = Request(site.tensor, Histogram())
    moving = passes()
    seen, then = fill(model, first), fill(folded, dict(_requests(refound)))
    attentions = []
    for name in structure.attentions:
        probabilities = seen[f"softmax {name}"]
        assert isinstance(probabilities, Histogram)
        below = probabilities.integrals(np.array([SMALL]))[0][0] / max(probabilities.count, 1)
        said = tuple(
            f"{c.pass_name}: {c.what}." for c in changes if c.where == name and "key" in moving[c.pass_name].moves
        )
        before, after = (_keys(name, *of) for of in ((structure, seen), (refound, then)))
        attentions.append(AttentionFigure(name, before, after, said, _drawing(probabilities), 1 - float(below)))
    return Figures(
        tuple(attentions),
        {key[5:]: _drawing(one) for key, one in seen.items() if key.startswith("gelu ") and isinstance(one, Histogram)},
    )


def page(figures: Figures, *, model: str, recipe: str, samples: str) -> str:
    """One self-contained page."""
    return render(
        "figures.html.j2",
        title=f"{model} - onnxptq figures",
        model=model,
        recipe=recipe,
        samples=samples,
        small=f"{SMALL:g}",
        keys=[_key_card(one) for one in figures.attentions],
        softmaxes=[_softmax_card(one) for one in figures.attentions],
        gelus=[(name, _histogram(one, label=f"Outputs of {name}")) for name, one in figures.gelus.items()],
    )


def _requests(structure: Structure) -> Iterator[tuple[str, Request]]:
    for name, attention in structure.attentions.items():
        yield f"key {name}", Request(attention.k, Histogram())
        if attention.k_source is not None:
            yield f"channels {name}", Request(structure.linears[attention.k_source.linear].output, Range(-1))


def _keys(name: str, structure: Structure, seen: Mapping[str, Statistic]) -> Keys:
    if name not in structure.attentions:
        return Keys(Drawing((), (), ()))
    values, source = seen[f"key {name}"], structure.attentions[name].k_source
    assert isinstance(values, Histogram)
    if source is None or not values.count:
        return Keys(_drawing(values))
    extent, channels = seen[f"channels {name}"], np.unique(source.channels)
    assert isinstance(extent, Range)
    return Keys(
        _drawing(values), tuple(zip(extent.low[channels].tolist(), extent.high[channels].tolist(), strict=True))
    )


def _drawing(seen: Histogram) -> Drawing:
    return Drawing.of(seen.counts, seen.edges, ())


def _key_card(one: AttentionFigure) -> tuple[str, str, Markup]:
    moved = one.after != one.before
    drawn = _histogram(one.before.values, label=f"Keys of {one.name} before", kind="before")
    if moved:
        drawn += _histogram(one.after.values, label=f"Keys of {one.name} after", kind="after")
    if one.before.channels and one.after.channels:
        drawn += Markup(plots.ranges(one.before.channels, one.after.channels))
    return one.name, " ".join(one.said) if moved else "left as they are", drawn


def _softmax_card(one: AttentionFigure) -> tuple[str, str, Markup]:
    drawn = _histogram(one.softmax, label=f"Softmax outputs of {one.name}")
    return one.name, f"{one.above:.2%} above {SMALL:g}", drawn


def _histogram(values: Drawing, *, label: str, kind: str = "bars") -> Markup:
    return Markup(plots.histogram(values, label=label, kind=kind))
