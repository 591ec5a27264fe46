"""Calibrator: a generator that requests statistics, receives them, and returns the choice with its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from onnxptq.bits import WIDTHS
from onnxptq.calibration.statistics.base import F32, Axes, Request, Statistic
from onnxptq.calibrators.search.objectives import uniform_codes
from onnxptq.errors import InputError
from onnxptq.ops.uniform import UniformParams
from onnxptq.options import Configurable
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site

Search = Generator[Request, Statistic, Choice]
REGISTRY: dict[str, Calibrator] = {}
MOST_ROWS = 2**24
"""Most rows of a sample that a calibrator may request."""
WEIGHTED = frozenset({Role.LINEAR_INPUT, Role.CONV_INPUT, Role.GELU})
"""Roles whose consumer multiplies by a constant weight."""


class Calibrator(Configurable, ABC):
    """Finds the parameters of a site. Defining a subclass registers it."""

    widths: ClassVar[range] = WIDTHS
    """Widths it is made for; ``best`` leaves it out at others."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        if cls.name in REGISTRY:
            raise TypeError(
                f"two calibrators are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}"
            )
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def search(self, site: Site, choice: Choice) -> Search:
        """Yield requests, one walk over the samples each, in lock-step over all sites; return ``choice`` with its
        parameters.

        The choice returned may have another scheme: ``best`` decides between schemes.
        """

    def weighs(self, choice: Choice) -> bool:
        """True if errors are weighted by gradients, which the requests then ask for."""
        return False


Member = tuple[Site, Choice]
"""An operand of a product, and the choice to complete for it."""
Together = Generator[Request, Statistic, dict[str, Choice]]
"""A search for several sites at once: their choices by key."""


class Joint(Calibrator):
    """Finds the codes of all operands of a product together, weights included."""

    @abstractmethod
    def together(self, members: Sequence[Member]) -> Together:
        """Like ``search``, for the operands of one consumer; returns the choices by site key."""

    def search(self, site: Site, choice: Choice) -> Search:
        """``search`` for one operand, the other one in float."""
        found = yield from self.together([(site, choice)])
        return found[site.key]


def searches(choices: Mapping[str, Choice], sites: Mapping[str, Site]) -> dict[str, Together]:
    """The named searches that complete these choices; weights whose calibrator needs no samples have none."""
    found: dict[str, Together] = {}
    joint: dict[str, tuple[Joint, list[Member]]] = {}
    for key, choice in choices.items():
        calibrator, site = REGISTRY.get(choice.calibrator), sites[key]
        if isinstance(calibrator, Joint):
            joint.setdefault(f"{site.consumer}:{choice.calibrator}", (calibrator, []))[1].append((site, choice))
        elif site.role is not Role.WEIGHT and calibrator is not None:
            found[key] = _alone(calibrator, site, choice)
    return found | {name: calibrator.together(members) for name, (calibrator, members) in joint.items()}


def _alone(calibrator: Calibrator, site: Site, choice: Choice) -> Together:
    done = yield from calibrator.search(site, choice)
    return {site.key: done}


def channel_axes(site: Site, choice: Choice) -> tuple[Axes, int | None]:
    """The axes with parameters of their own under the choice's granularity, and the number of heads folded into axis
    -3.

    Attention operands are [..., heads, tokens, dim]; option ``heads`` is their number where the batch is folded in too.
    """
    heads = choice.options.get("heads")
    match choice.granularity:
        case "tensor":
            return None, None
        case "channel":
            return ((-3, -1), heads) if heads is not None else (site.axis, None)
        case "head":
            return -3, heads
    raise InputError(
        f"site {site.key}: calibrator {choice.calibrator!r} finds static ranges, per tensor, channel or head, not "
        f"per {choice.granularity}"
    )


def uniform_only(site: Site, choice: Choice) -> None:
    """Raise an InputError if a calibrator of ranges gets another scheme."""
    if choice.scheme != "uniform":
        raise InputError(
            f"site {site.key}: calibrator {choice.calibrator!r} is for scheme 'uniform', not {choice.scheme!r}"
        )


def require_values(site: Site, count: int) -> None:
    """Raise an InputError if the site's tensor had no values."""
    if not count:
        raise InputError(
            f"site {site.key}: the calibration samples hold no value of tensor {site.tensor!r}; give samples that "
            f"are not empty"
        )


def with_range(site: Site, choice: Choice, low: ArrayLike, high: ArrayLike, count: int, rank: int = 0) -> Choice:
    """The choice with uniform codes over a range: numbers, or vectors over the channels of a tensor of that rank.

    ``count`` is the number of values seen; zero is an InputError.
    """
    require_values(site, count)
    codes = uniform_codes(low, high, choice.bits, signed=choice.symmetric)
    scale, zero = codes.scale, codes.zero
    if scale.ndim:
        axes, heads = channel_axes(site, choice)
        kept = [
            a if a < 0 else a - rank for a in (axes if isinstance(axes, tuple) else (axes if axes is not None else -1,))
        ]
        sizes = [heads or 1, scale.size // (heads or 1)] if len(kept) == 2 else [scale.size]
        shape = [1] * -min(kept)
        for axis, size in zip(kept, sizes, strict=True):
            shape[axis] = size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return replace(choice, params=UniformParams(choice.bits, scale, zero))


def as_matrix(weight: F32, channels: int) -> F32 | None:
    """A weight as [channels in, everything else]; None where the channels are in groups."""
    if weight.ndim == 2:
        return weight
    for axis in (1, 0):
        if weight.shape[axis] == channels:
            return np.ascontiguousarray(np.moveaxis(weight, axis, 0).reshape(channels, -1))
    return None
