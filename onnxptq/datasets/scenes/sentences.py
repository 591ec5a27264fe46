"""Longer sentences of one to three clauses: the forms of `refscene-g`."""

from __future__ import annotations

from numpy.random import RandomState

from onnxptq.datasets.scenes.attributes import Attributes, describe, pick, subset
from onnxptq.datasets.scenes.phrases import Drawn
from onnxptq.datasets.scenes.semantics import depth_inside, is_unique
from onnxptq.datasets.scenes.types import MAX_PIECES, Form, Scene, SceneObject
from onnxptq.datasets.scenes.wording import RELATIONS, WITH_PATTERN, count_pieces, noun_phrase

_REGION_LONG = {
    "left": ("on the left side of the image", "in the left part"),
    "right": ("on the right side of the image", "in the right part"),
    "top": ("at the top of the image", "in the upper part"),
    "bottom": ("at the bottom of the image", "in the lower part"),
    "center": ("in the middle of the image", "near the center"),
    "top left": ("in the top left corner", "in the upper left part"),
    "top right": ("in the top right corner", "in the upper right part"),
    "bottom left": ("in the bottom left corner", "in the lower left part"),
    "bottom right": ("in the bottom right corner", "in the lower right part"),
}


def sentence(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A longer sentence: noun phrase plus one to three clauses, each of which must be true."""
    attrs = subset(rng, o, 1, 3)
    form: Form = ("all", attrs)
    text = noun_phrase(rng, attrs)
    text = pick(rng, ("the ", "an " if text[0] in "aeiou" else "a ")) + text
    clauses = rng.randint(1, 4)
    used: set[str] = set()
    joined, verb = 0, False  # verb: a clause with "is" has begun
    for _ in range(6):
        if joined == clauses:
            break
        kind = pick(rng, ("rel", "rel", "rel", "region", "near", "cover", "not", "pattern"))
        if kind in used and kind != "rel":
            continue
        if not joined or used == {"pattern"}:
            lead = pick(rng, ("that is ", "which is ", ""))
        else:
            lead = pick(rng, ("and ", ", ", "and is " if verb else "and "))
        verb = verb or "is" in lead
        if kind in ("rel", "near", "cover"):
            got = _anchored(rng, scene, o, kind)
            if got is None:
                continue
            arg, phrase, about = got
            form = (kind, arg, form, ("all", about))
        elif kind == "region":
            spots = [s for s in _REGION_LONG if depth_inside(o, s) >= 0]
            if not spots:
                continue
            spot = pick(rng, spots)
            phrase, form = pick(rng, _REGION_LONG[spot]), ("region", spot, form)
        else:  # a further attribute of the object in a clause of its own
            if joined or any(a == "pattern" for a, _, _ in attrs):
                continue
            if kind == "pattern":
                attrs = (*attrs, ("pattern", o.pattern, True))
                lead, phrase = "", pick(rng, WITH_PATTERN[o.pattern])
            else:
                rivals = [r.pattern for r in scene.objects if r.pattern != o.pattern]
                if not rivals:
                    continue
                no = pick(rng, rivals)
                attrs = (*attrs, ("pattern", no, False))
                lead, phrase = pick(rng, ("that is ", "which is ")), f"not {no}"
            form = ("all", attrs)
        comma = lead == ", "
        longer = f"{text}, {phrase}" if comma else f"{text} {lead}{phrase}"
        if count_pieces(longer) > MAX_PIECES:
            return None
        text = longer
        used.add(kind)
        joined += 1
    return (text, form) if joined else None


def _only(o: SceneObject) -> Attributes:
    """A filter that only this object passes (for testing a clause on it alone)."""
    return (("index", o.index, True),)


def _anchored(rng: RandomState, scene: Scene, o: SceneObject, kind: str) -> tuple[str, str, Attributes] | None:
    """A clause about another object: argument of its form, words, and the other object's attributes."""
    others = [a for a in scene.objects if a.index != o.index]
    anchor = others[rng.randint(len(others))]
    about = describe(rng, scene, anchor, 3)
    if about is None:
        return None
    the_anchor = "the " + noun_phrase(rng, about, False)
    if kind == "rel":
        fits = [r for r in RELATIONS if is_unique(("rel", r, ("all", _only(o)), ("all", about)), scene, o.index)]
        if not fits:
            return None
        arg = pick(rng, fits)
        return arg, f"{pick(rng, RELATIONS[arg])} {the_anchor}", about
    if kind == "near":
        closest = f"{pick(rng, ('closest to', 'nearest to'))} {the_anchor}"
        if rng.rand() < 0.3:
            return "farthest", f"{pick(rng, ('farthest from', 'most distant from'))} {the_anchor}", about
        return "closest", closest, about
    if dict(o.hides).get(anchor.index, 0) >= 45:
        return "front", f"in front of {the_anchor}", about
    if dict(anchor.hides).get(o.index, 0) >= 45:
        return "behind", f"{pick(rng, ('behind', 'partly hidden by', 'partly covered by'))} {the_anchor}", about
    return None
