"""Short phrases: the forms of `refscene` and `refscene+`."""

from __future__ import annotations

from numpy.random import RandomState

from onnxptq.datasets.scenes.attributes import ambiguous, describe, pick, subset
from onnxptq.datasets.scenes.semantics import depth_inside, offset
from onnxptq.datasets.scenes.types import SIZE, Form, Scene, SceneObject
from onnxptq.datasets.scenes.wording import ORDINALS, RELATIONS, SIDES, noun_phrase

Drawn = tuple[str, Form] | None
"""Text and form of one draw; None where the object offers nothing of that kind."""


def side(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """An extreme position: "leftmost red circle"."""
    attrs = ambiguous(rng, scene, o)
    where = pick(rng, ("left", "right", "top", "bottom", "left", "right", "center"))
    text = pick(rng, SIDES[where][0]).format(noun_phrase(rng, attrs, False))
    return text, ("extreme", where, ("all", attrs))


def corner(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A corner of the picture: "star in the top left corner"."""
    attrs = ambiguous(rng, scene, o)
    v, h = ("top" if o.cy < SIZE / 2 else "bottom"), ("left" if o.cx < SIZE / 2 else "right")
    word = pick(rng, (v, v, {"top": "upper", "bottom": "lower"}[v]))
    np_ = noun_phrase(rng, attrs, False)
    text = pick(
        rng, ("{v} {h} {n}", "{n} {v} {h}", "{n} in the {v} {h} corner", "{n} at {v} {h}", "{v} {h} corner {n}")
    )
    form = ("extreme", f"{v} {h}", ("all", attrs))
    if rng.rand() < 0.3:
        form = ("region", f"{v} {h}", ("all", attrs))
    return text.format(v=word, h=h, n=np_), form


def region(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A part of the picture that only this one is in."""
    attrs = ambiguous(rng, scene, o)
    spots = [s for s in SIDES if depth_inside(o, s) >= 0]
    if not spots:
        return None
    where = pick(rng, spots)
    return f"{noun_phrase(rng, attrs, False)} {SIDES[where][1]}", ("region", where, ("all", attrs))


def rank(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A place in an order: "second square from the left"."""
    attrs = ambiguous(rng, scene, o, 1)
    start, k = pick(rng, ("left", "right", "top", "bottom")), pick(rng, (2, 2, 3))
    form = ("rank", start, k, ("all", attrs))
    return f"{ORDINALS[k]} {noun_phrase(rng, attrs, False)} from {pick(rng, ('the ', ''))}{start}", form


def relation(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A place relative to another object: "ring above the blue star"."""
    others = [a for a in scene.objects if a.index != o.index]
    anchor = others[rng.randint(len(others))]
    about = describe(rng, scene, anchor, 3)
    if about is None:
        return None
    attrs = ambiguous(rng, scene, o)
    art = pick(rng, ("", "the "))
    the_anchor = art + noun_phrase(rng, about, False)
    np_ = noun_phrase(rng, attrs, False)
    if rng.rand() < 0.22:
        form = ("near", "closest", ("all", attrs), ("all", about))
        return f"{np_} {pick(rng, ('closest to', 'nearest to', 'next to', 'beside'))} {the_anchor}", form
    fits = [r for r in RELATIONS if offset(o, anchor, r)[0] >= 22]
    if not fits:
        return None
    rel = pick(rng, fits)
    return f"{np_} {pick(rng, RELATIONS[rel])} {the_anchor}", ("rel", rel, ("all", attrs), ("all", about))


def appearance(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """The fewest attributes that single the object out."""
    attrs = describe(rng, scene, o)
    return None if attrs is None else (noun_phrase(rng, attrs), ("all", attrs))


def full(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """Three or four attributes."""
    attrs = subset(rng, o, 3, 4)
    return noun_phrase(rng, attrs), ("all", attrs)


def extent(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """The biggest or smallest of its kind."""
    attrs = tuple(t for t in ambiguous(rng, scene, o) if t[0] != "size")
    which = "biggest" if o.size == "large" else "smallest"
    word = pick(rng, ("biggest", "largest", "bigger") if o.size == "large" else ("smallest", "smallest", "smaller"))
    return f"{word} {noun_phrase(rng, attrs)}", ("size", which, ("all", attrs))


def negation(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """A missing attribute: "circle that is not red"."""
    attrs = ambiguous(rng, scene, o)
    free = [a for a in ("color", "shape", "pattern", "size") if a not in [t[0] for t in attrs]]
    a = pick(rng, free)
    rivals = [getattr(r, a) for r in scene.objects if getattr(r, a) != getattr(o, a)]
    if not rivals:
        return None
    attrs = (*attrs, (a, pick(rng, rivals), False))
    return noun_phrase(rng, attrs, False), ("all", attrs)


def cover(rng: RandomState, scene: Scene, o: SceneObject) -> Drawn:
    """An object that it partly hides, or that partly hides it."""
    front = [j for j, n in o.hides if n >= 45]
    behind = [r.index for r in scene.objects if dict(r.hides).get(o.index, 0) >= 45]
    pool = [("front", j) for j in front] + [("behind", j) for j in behind]
    if not pool:
        return None
    where, j = pool[rng.randint(len(pool))]
    about = describe(rng, scene, scene.objects[j], 3)
    if about is None:
        return None
    attrs = ambiguous(rng, scene, o)
    words = ("in front of", "covering") if where == "front" else ("behind", "partly hidden by", "partly behind")
    text = f"{noun_phrase(rng, attrs, False)} {pick(rng, words)} the {noun_phrase(rng, about, False)}"
    return text, ("cover", where, ("all", attrs), ("all", about))
