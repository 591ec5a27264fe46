"""Choose which attributes of an object an expression mentions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from numpy.random import RandomState

from onnxptq.datasets.scenes.semantics import is_unique, resolve
from onnxptq.datasets.scenes.types import Scene, SceneObject

Attributes = tuple[tuple[str, Any, bool], ...]
"""(attribute, value, wanted) triples that an object must fulfil."""

T = TypeVar("T")


def pick(rng: RandomState, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[rng.randint(len(options))]


def subset(rng: RandomState, o: SceneObject, lo: int, hi: int) -> Attributes:
    """A random non-empty choice of the object's attributes; shape and colour are likelier."""
    weights = {"shape": 3.0, "color": 3.0, "size": 1.2, "pattern": 1.4}
    k = rng.randint(lo, hi + 1)
    order = sorted(weights, key=lambda a: -(rng.rand() ** (1 / weights[a])))
    return tuple((a, getattr(o, a), True) for a in order[:k])


def describe(rng: RandomState, scene: Scene, o: SceneObject, tries: int = 5) -> Attributes | None:
    """Attributes that single the object out, few if possible."""
    for k in range(tries):
        attrs = subset(rng, o, 1 + (k > 1), 2 + (k > 1))
        if is_unique(("all", attrs), scene, o.index):
            return attrs
    full = tuple((a, getattr(o, a), True) for a in ("size", "color", "pattern", "shape"))
    return full if is_unique(("all", full), scene, o.index) else None


def ambiguous(rng: RandomState, scene: Scene, o: SceneObject, hi: int = 2) -> Attributes:
    """Attributes (possibly none) that preferably match several objects, so that the rest matters."""
    attrs: Attributes = ()
    for _ in range(3):
        attrs = subset(rng, o, 0, hi)
        if len(resolve(("all", attrs), scene)[0]) > 1:
            break
    return attrs
