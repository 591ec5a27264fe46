"""Procedural scenes and referring expressions: NumPy only, seeded, fast.

A scene is a 256-pixel picture with 3 to 10 textured objects on a textured background. Every object has a shape, a
colour, a size, a pattern and a rotation; objects may partly hide each other. A referring expression is a short English
sentence with a logical form that `resolve` evaluates on the scene: an expression is only emitted when its form matches
exactly its target, with no borderline candidate left.

Three benchmarks mirror the RefCOCO family: `refscene` (short phrases, location words allowed), `refscene+` (appearance
only) and `refscene-g` (longer sentences of one to three clauses). Splits are disjoint seed ranges: `train` and `val`
mix all layouts, `testA` has few large objects, `testB` many small ones.

Randomness comes from `numpy.random.RandomState` because its stream is frozen across NumPy versions. Layouts, masks and
expressions are exactly reproducible; pixels may differ by one grey level between BLAS and SIMD builds.
"""

from __future__ import annotations

from onnxptq.datasets.scenes.background import warm_up
from onnxptq.datasets.scenes.expressions import random_refs, ref_sample, ref_samples, refer
from onnxptq.datasets.scenes.render import make_scene
from onnxptq.datasets.scenes.semantics import is_unique, resolve
from onnxptq.datasets.scenes.splits import at_size, scene_for
from onnxptq.datasets.scenes.types import (
    BENCHMARKS,
    COLORS,
    MAX_OBJECTS,
    MAX_PIECES,
    PATTERNS,
    SHAPES,
    SIZE,
    SIZES,
    SPLITS,
    Array,
    Form,
    Ref,
    Scene,
    SceneObject,
)
from onnxptq.datasets.scenes.wording import count_pieces

__all__ = [
    "BENCHMARKS",
    "COLORS",
    "MAX_OBJECTS",
    "MAX_PIECES",
    "PATTERNS",
    "SHAPES",
    "SIZE",
    "SIZES",
    "SPLITS",
    "Array",
    "Form",
    "Ref",
    "Scene",
    "SceneObject",
    "at_size",
    "count_pieces",
    "is_unique",
    "make_scene",
    "random_refs",
    "ref_sample",
    "ref_samples",
    "refer",
    "resolve",
    "scene_for",
    "warm_up",
]
