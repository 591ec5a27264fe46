"""Placement: choices for the sites of a model, checked against the abilities of calibrators and schemes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from onnxptq.calibrators import calibrators, weight_calibrators
from onnxptq.calibrators.base import Joint
from onnxptq.errors import InputError, nearest
from onnxptq.options import Configurable
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role, Site, Structure

HEADED = (Role.QUERY, Role.KEY, Role.VALUE)
FOUND = frozenset({"heads", "blocks", "norm", "errors", "geometry", "window"})
"""Options that are derived, not set."""
PLACED = frozenset({"heads", "blocks", "geometry", "window"})
"""Those of them that follow from the place alone."""
GRANULARITIES = ("tensor", "channel", "head", "row", "column", "block", "pixel", "sample")


def placed_on(choices: Mapping[Site, Choice], structure: Structure) -> dict[Site, Choice]:
    """Choices before calibration, with facts of their place for calibrators.

    The facts: heads, blocks of a weight, and of a convolution the units of run-time ranges and the kernel's windows.
    """
    heads = {consumer: one.heads for one in structure.attentions.values() for consumer in (one.qk, one.av)}
    blocks = structure.blocks()
    placed = {}
    for site, choice in choices.items():
        options = {key: value for key, value in choice.options.items() if key not in PLACED}
        if site.role in HEADED and (choice.granularity in ("channel", "head") or choice.options.get("short")):
            options["heads"] = heads[site.consumer]
        if choice.granularity == "block" and site.consumer in blocks and choice.params is None:
            options["blocks"] = blocks[site.consumer]
        conv = structure.convs.get(site.consumer)
        if conv is not None and conv.ranges and site.role is not Role.WEIGHT:
            options["geometry"] = conv.ranges
        if conv is not None and conv.window is not None and choice.params is None and _joint(choice):
            options["window"] = asdict(conv.window)
        placed[site] = replace(choice, options=options)
    return placed


def _joint(choice: Choice) -> bool:
    """Whether both operands are searched together."""
    return isinstance(calibrators().get(choice.calibrator), Joint)


def applied(plan: Plan, structure: Structure) -> Plan:
    """A plan from a file, applied to the sites of a model; an InputError if it does not fit."""
    sites = {site.key: site for site in structure.sites}
    every: list[Configurable] = [*calibrators().values(), *weight_calibrators().values()]
    known = {option for one in every for option in one.options} | FOUND
    choices: dict[Site, Choice] = {}
    for key, choice in plan.items():
        if key not in sites:
            raise InputError(f"plan: site {key!r} is not in this model{nearest(key, sites)}")
        if choice.granularity not in GRANULARITIES:
            raise InputError(
                f"plan: site {key}: unknown granularity {choice.granularity!r}"
                f"{nearest(choice.granularity, GRANULARITIES)}"
            )
        for option in choice.options:
            if option not in known:
                raise InputError(f"plan: site {key}: no option {option!r}{nearest(option, known)}")
        check_choice(sites[key], choice)
        choices[sites[key]] = choice
    placed = placed_on(choices, structure)
    for site, choice in placed.items():
        _require_fit(site, choice)
    return Plan(placed, **plan.facts)


def _require_fit(site: Site, choice: Choice) -> None:
    """An InputError if parameters have another width or shape than the site."""
    if choice.params is None:
        return
    heads = int(choice.options.get("heads", 1))
    channels = site.channels or 1
    counts = {"tensor": {1}, "row": {1}, "column": {1}}.get(choice.granularity, {1, channels, heads, heads * channels})
    arrays = choice.params.inputs() if choice.scheme == "uniform" else {}
    if choice.params.bits != choice.bits or any(array.size not in counts for array in arrays.values()):
        raise InputError(
            f"plan: site {site.key}: its parameters are for {choice.params.bits} bits and "
            f"{max((a.size for a in arrays.values()), default=1)} channels; remove them, to be found anew"
        )


def for_weights() -> dict[str, Configurable]:
    """The calibrators for weights."""
    joint: dict[str, Configurable] = {name: one for name, one in calibrators().items() if isinstance(one, Joint)}
    return {**weight_calibrators(), **joint}


def check_choice(site: Site, choice: Choice) -> None:
    """An InputError for an invalid choice for a kind of site."""
    weight = site.role is Role.WEIGHT
    what, known = ("weights", for_weights()) if weight else ("activations", dict[str, Configurable](calibrators()))
    if choice.calibrator not in known:
        raise InputError(
            f"site {site.key}: calibrator {choice.calibrator!r} is not for {what}; use one of "
            f"{', '.join(sorted(known))}"
        )
    known[choice.calibrator].settings(choice.options)
    if weight and choice.scheme != "uniform":
        raise InputError(f"site {site.key}: weights have scheme 'uniform', not {choice.scheme!r}")
    if weight and choice.granularity not in ("tensor", "channel", "block"):
        raise InputError(
            f"site {site.key}: weights have a scale per tensor, channel or block, not per {choice.granularity}"
        )
