"""Allocation: a width for each site, so that the outputs lose least for a given cost."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from onnxptq.pipeline.sensitivity import Sensitivity
from onnxptq.structure import Role

NARROWEST = 2


def allocate(found: Mapping[str, Sensitivity], *, budget: float, widest: int) -> dict[str, int]:
    """Widths of these sites, at most ``budget`` bits in all; queries and keys of one attention have one width.

    All start at the narrowest. The site that saves most error a bit is widened next, until nothing fits.
    """
    groups = grouped(found)
    widths = [NARROWEST] * len(groups)
    left = budget - sum(found[key].size * NARROWEST for group in groups for key in group)

    def step(index: int) -> tuple[float, int]:
        """The best step of a group: gain a bit and number of widths, over steps of one or more."""
        now, size = widths[index], sum(found[key].size for key in groups[index])
        errors = {w: sum(found[key].errors[w] for key in groups[index]) for w in range(now, widest + 1)}
        gains = [((errors[now] - errors[w]) / (size * (w - now)), w - now) for w in range(now + 1, widest + 1)]
        return max(gains, key=lambda one: (one[0], -one[1]))

    queue: list[tuple[float, int, int]] = []

    def enter(index: int) -> None:
        if widths[index] < widest:
            gain, wider = step(index)
            heapq.heappush(queue, (-gain, index, wider))

    for index in range(len(groups)):
        enter(index)
    while queue:
        _, index, wider = heapq.heappop(queue)
        size = sum(found[key].size for key in groups[index])
        wider = min(wider, int(left // size))
        if wider > 0:
            widths[index] += wider
            left -= size * wider
            enter(index)
    return {key: width for group, width in zip(groups, widths, strict=True) for key in group}


def grouped(found: Mapping[str, Sensitivity]) -> list[list[str]]:
    """Sites of one width: queries and keys of one product, layers that read one weight; else each site alone."""
    groups: dict[str, list[str]] = {}
    for key, one in found.items():
        site = one.site
        if site.role in (Role.QUERY, Role.KEY):
            name = f"{site.consumer}:scores"
        elif site.role is Role.WEIGHT:
            name = f"{site.tensor}:weight"
        else:
            name = key
        groups.setdefault(name, []).append(key)
    return list(groups.values())


def of_role(found: Mapping[str, Sensitivity], *, weights: bool) -> dict[str, Sensitivity]:
    """The weights, or the activations."""
    return {key: one for key, one in found.items() if (one.site.role is Role.WEIGHT) == weights}


def average(found: Mapping[str, Sensitivity], widths: Mapping[str, int]) -> float:
    """Average width, weighted by the number of values."""
    sizes = [one.size for one in found.values()]
    return sum(one.size * widths[key] for key, one in found.items()) / max(sum(sizes), 1)


def predicted(found: Mapping[str, Sensitivity], widths: Mapping[str, int]) -> float:
    """Squared error over signal that these widths should bring to the outputs."""
    return sum(one.errors[widths[key]] for key, one in found.items())
