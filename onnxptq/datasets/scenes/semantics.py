"""Evaluate the logical form of an expression on a scene.

A form is a nested tuple; `resolve` returns the objects that surely match and those that are borderline. Geometry uses
the centres of the visible boxes, with margins so that no reader would disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from onnxptq.datasets.scenes.types import SIZE, Form, Scene, SceneObject

Matches = tuple[frozenset[int], frozenset[int]]
_NOTHING: frozenset[int] = frozenset()


def depth_inside(o: SceneObject, region: str) -> float:
    """Distance in pixels of an object from a named region's border, positive inside; -25..0 is borderline."""
    edge = {"left": 102 - o.cx, "right": o.cx - (SIZE - 102), "top": 102 - o.cy, "bottom": o.cy - (SIZE - 102)}
    if region == "center":
        return 36 - max(abs(o.cx - SIZE / 2), abs(o.cy - SIZE / 2))
    return min(edge[word] for word in region.split())


def _extreme_key(o: SceneObject, where: str) -> float:
    if where == "center":
        return math.hypot(o.cx - SIZE / 2, o.cy - SIZE / 2)
    key = {"left": o.cx, "right": -o.cx, "top": o.cy, "bottom": -o.cy}
    return sum(key[word] for word in where.split())


def offset(o: SceneObject, a: SceneObject, relation: str) -> tuple[float, float]:
    """Displacement of `o` along the relation's direction from the anchor, and across it."""
    dx, dy = o.cx - a.cx, o.cy - a.cy
    return {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]


def _keep(inner: Matches, test: Callable[[int], int]) -> Matches:
    """Restrict a result: test gives 1 (yes), 0 (borderline) or -1 (no)."""
    sure, maybe = inner
    verdict = {i: test(i) for i in sure | maybe}
    yes = frozenset(i for i in sure if verdict[i] > 0)
    return yes, frozenset(i for i, v in verdict.items() if v >= 0) - yes


def _best(inner: Matches, key: Callable[[int], float], margin: Callable[[float], float]) -> Matches:
    """The member with the least key, if the runner-up is beyond the margin."""
    sure, maybe = inner
    if maybe or not sure:
        return _NOTHING, sure | maybe
    ranked = sorted(sure, key=key)
    if len(ranked) > 1 and key(ranked[1]) < margin(key(ranked[0])):
        return _NOTHING, sure
    return frozenset(ranked[:1]), _NOTHING


def resolve(form: Form, scene: Scene) -> Matches:
    """Evaluate a form: (surely matching, borderline) object indices."""
    objs = scene.objects
    op = form[0]
    if op == "all":  # ("all", ((attribute, value, wanted), ...))
        return frozenset(o.index for o in objs if all((getattr(o, a) == v) == w for a, v, w in form[1])), _NOTHING
    if op == "region":  # ("region", name, form)
        return _keep(resolve(form[2], scene), lambda i: _tri(depth_inside(objs[i], form[1]), -25, 0))
    if op == "extreme":  # ("extreme", direction, form)
        gap = 24 if " " in form[1] else 15
        return _best(resolve(form[2], scene), lambda i: _extreme_key(objs[i], form[1]), lambda k: k + gap)
    if op == "rank":  # ("rank", from side, k, form): k = 2 is "second from the side"
        sure, maybe = resolve(form[3], scene)
        ranked = sorted((_extreme_key(objs[i], form[1]), i) for i in sure)
        k = form[2]
        gaps = [b[0] - a[0] for a, b in pairwise(ranked[: k + 1])]
        if maybe or len(ranked) < k or any(g < 14 for g in gaps):
            return _NOTHING, sure | maybe
        return frozenset([ranked[k - 1][1]]), _NOTHING
    if op == "size":  # ("size", "biggest" | "smallest", form)
        sign = -1 if form[1] == "biggest" else 1
        return _best(
            resolve(form[2], scene),
            lambda i: sign * math.log(objs[i].radius),
            lambda k: k + math.log(1.3),
        )
    # the rest have an anchor: (op, argument, form, anchor form)
    anchors, doubt = resolve(form[3], scene)
    if len(anchors) != 1 or doubt:
        return _NOTHING, frozenset(range(len(objs)))
    anchor = objs[next(iter(anchors))]
    sure, maybe = resolve(form[2], scene)
    inner = (sure - anchors, maybe - anchors)
    if op == "rel":  # left, right, above, below of the anchor

        def test(i: int) -> int:
            along, across = offset(objs[i], anchor, form[1])
            return 1 if along >= 22 and along >= 0.5 * abs(across) else (-1 if along <= 3 else 0)

        return _keep(inner, test)
    if op == "near":  # closest to, farthest from the anchor

        def dist(i: int) -> float:
            return math.hypot(objs[i].cx - anchor.cx, objs[i].cy - anchor.cy)

        if form[1] == "closest":
            return _best(inner, dist, lambda k: 1.25 * k + 8)
        return _best(inner, lambda i: -dist(i), lambda k: 0.82 * k + 8)
    if op == "cover":  # "front": hides a part of the anchor; "behind": partly hidden by it

        def overlap(i: int) -> int:
            over, under = (objs[i], anchor) if form[1] == "front" else (anchor, objs[i])
            return _tri(dict(over.hides).get(under.index, 0), 1, 45)

        return _keep(inner, overlap)
    raise ValueError(f"unknown form {form!r}")


def _tri(value: float, no_below: float, yes_from: float) -> int:
    return 1 if value >= yes_from else (-1 if value < no_below else 0)


def is_unique(form: Form, scene: Scene, target: int) -> bool:
    sure, maybe = resolve(form, scene)
    return not maybe and sure == {target}
