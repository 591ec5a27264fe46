"""Draw expressions that are provably unique, and the benchmarks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.random import RandomState

from onnxptq.datasets.scenes import phrases
from onnxptq.datasets.scenes.attributes import pick
from onnxptq.datasets.scenes.semantics import is_unique
from onnxptq.datasets.scenes.sentences import sentence
from onnxptq.datasets.scenes.splits import scene_for
from onnxptq.datasets.scenes.types import BENCHMARKS, MAX_PIECES, Ref, Scene, SceneObject
from onnxptq.datasets.scenes.wording import count_pieces

_MIX: dict[str, tuple[tuple[Callable[[RandomState, Scene, SceneObject], phrases.Drawn], float], ...]] = {
    "refscene": (
        (phrases.side, 0.31), (phrases.corner, 0.15), (phrases.region, 0.08), (phrases.rank, 0.10),
        (phrases.relation, 0.32), (phrases.appearance, 0.04),
    ),
    "refscene+": (
        (phrases.appearance, 0.36), (phrases.full, 0.12), (phrases.extent, 0.20), (phrases.negation, 0.20),
        (phrases.cover, 0.12),
    ),
    "refscene-g": ((sentence, 1.0),),
}  # fmt: skip


def refer(scene: Scene, target: int, benchmark: str, rng: RandomState, tries: int = 16) -> Ref | None:
    """A random expression of one benchmark that singles the target out, or None."""
    draws, weights = zip(*_MIX[benchmark], strict=True)
    cut = np.cumsum(weights) / sum(weights)
    o = scene.objects[target]
    for _ in range(tries):
        draw = draws[min(int(np.searchsorted(cut, rng.rand())), len(draws) - 1)]
        got = draw(rng, scene, o)
        if got is None:
            continue
        text, form = got
        if count_pieces(text) > MAX_PIECES or not is_unique(form, scene, target):
            continue
        if benchmark != "refscene-g" and rng.rand() < 0.25:
            text = "the " + text
        if count_pieces(text) <= MAX_PIECES:
            return Ref(text, form, draw.__name__, target)
    return None


def random_refs(scene: Scene, count: int, rng: RandomState, benchmarks: Sequence[str] = BENCHMARKS) -> list[Ref]:
    """`count` expressions for random targets and benchmarks (training); repeats one if need be."""
    refs: list[Ref] = []
    for _ in range(4 * count):
        ref = refer(scene, rng.randint(len(scene.objects)), pick(rng, benchmarks), rng)
        if ref is not None:
            refs.append(ref)
        if len(refs) == count:
            return refs
    while 0 < len(refs) < count:
        refs.append(refs[rng.randint(len(refs))])
    return refs


def ref_sample(benchmark: str, split: str, index: int) -> tuple[Scene, Ref]:
    """The `index`-th (scene, expression) of a benchmark split; deterministic."""
    for redraw in range(4):
        scene = scene_for(split, index, redraw)
        rng = RandomState((scene.seed * 3 + BENCHMARKS.index(benchmark)) % 2**32)
        for _ in range(2 * len(scene.objects)):
            ref = refer(scene, rng.randint(len(scene.objects)), benchmark, rng)
            if ref is not None:
                return scene, ref
    raise RuntimeError(f"no expression for {benchmark} {split} {index}")


def ref_samples(benchmark: str, split: str, count: int) -> Iterator[tuple[Scene, Ref]]:
    """The first `count` pairs of a benchmark split."""
    for i in range(count):
        yield ref_sample(benchmark, split, i)
