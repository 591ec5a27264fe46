"""Compare two models: metrics of their outputs and of corresponding inner tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import ArtifactError, InputError
from onnxptq.running.masks import Pictures, recorded
from onnxptq.running.metrics import Accumulator, Metrics
from onnxptq.running.runner import Cut, InnerTensors, Outputs, Sample, Spool, run, whole
from onnxptq.running.sessions import Executor, ModelLike

FETCHED = 1 << 26
"""Bytes of inner tensors fetched from a session together: all are in memory until its run ends."""
Rows = Callable[[str, tuple[int, ...]], NDArray[np.int64] | None]
"""The row indices, on all axes but the last, to compare for a tensor of this name and shape; None: all rows."""


def models(
    reference: ModelLike,
    other: ModelLike,
    samples: Iterable[Sample],
    *,
    artifact: bool = False,
    names: tuple[str, str] = ("reference", "quantized model"),
    cut: Cut = whole,
    executor: Executor | None = None,
    threads: int | None = None,
) -> dict[str, Metrics]:
    """Metrics of each output that both models have. ``samples`` are walked twice, one model after the other.

    With ``artifact`` the other model is our own: if it fails, or gives NaN where the reference does not, this is an
    ArtifactError.
    """
    blame: type[Exception] = ArtifactError if artifact else InputError
    sizes: list[Pictures] = []
    with Spool() as expected:
        first = recorded(samples, sizes)
        expected.fill(
            run(reference, first, name=names[0], cut=cut, executor=executor, threads=threads, error=InputError)
        )
        found = outputs(
            expected,
            run(other, samples, name=names[1], cut=cut, executor=executor, threads=threads, error=blame),
            pictures=sizes,
            error=blame,
        )
    for name, one in found.items():
        if artifact and one.broken:
            raise ArtifactError(
                f"{names[1]}: output {name!r} has {one.broken} NaN or infinite elements where the original has none"
            )
    return found


def outputs(
    expected: Iterable[Outputs],
    got: Iterable[Outputs],
    *,
    pictures: Iterable[Pictures] | None = None,
    error: type[Exception] = InputError,
) -> dict[str, Metrics]:
    """Metrics of each output by name, from outputs of both per sample, with the sizes of the inputs where known."""
    held: dict[str, Accumulator] = {}
    sizes = iter(pictures) if pictures is not None else repeat(None)
    for a, b in zip(expected, got, strict=True):
        size = next(sizes)
        shared = [name for name in a if name in b]
        if not shared:
            raise error(f"the two models have no output in common: {', '.join(a)} and {', '.join(b)}")
        for name in shared:
            try:
                held.setdefault(name, Accumulator()).update(a[name], b[name], size)
            except ValueError as problem:
                raise error(f"output {name!r} cannot be compared: {problem}") from None
    return {name: one.result() for name, one in held.items()}


def layers(
    reference: ModelLike,
    other: ModelLike,
    pairs: Sequence[tuple[str, str]],
    samples: Sequence[Sample],
    *,
    rows: Rows | None = None,
    memory_limit: int | None = None,
    cut: Cut = whole,
    executor: Executor | None = None,
    threads: int | None = None,
) -> dict[str, Metrics]:
    """Metrics of inner tensors, by the reference's name and in order; each pair names a tensor in either model.

    Tensors with ``rows`` (by the reference's name) are compared on these only, and ``cut`` is not applied to them.

    Tensors are fetched in groups whose values for one sample fit in ``memory_limit`` bytes (64 MiB; at least one
    tensor).
    """
    if not samples or not pairs:
        return {}
    models = InnerTensors(reference), InnerTensors(other)
    known = [(a, b) for a, b in pairs if a in models[0].tensors and b in models[1].tensors]
    how: dict[str, Any] = {"executor": executor, "threads": threads}
    shapes = models[0].shapes([a for a, _ in known], samples[0], **how)
    part = {a: places for a, shape in shapes.items() if rows is not None and (places := rows(a, shape)) is not None}
    sizes = {a: len(part[a]) * shape[-1] if a in part else math.prod(shape) for a, shape in shapes.items()}
    found: dict[str, Metrics] = {}
    for group in _groups(known, sizes, (memory_limit or FETCHED) // 4):
        names = [a for a, _ in group]
        named = partial(_named, names, part, cut)
        with Spool() as expected:
            expected.fill(run(partial(models[0].outputs, names, part), samples, cut=named, **how))
            others = partial(models[1].outputs, [b for _, b in group], {b: part[a] for a, b in group if a in part})
            found |= outputs(expected, run(others, samples, cut=named, **how), error=ArtifactError)
    return {a: replace(found[a], agreement=None) for a, _ in known}


def _named(names: Sequence[str], part: Container[str], cut: Cut, outputs: Outputs, sample: Sample) -> Outputs:
    """Rename outputs, and remove the padding of whole ones."""
    held = dict(zip(names, outputs.values(), strict=True))
    return {**held, **cut({name: array for name, array in held.items() if name not in part}, sample)}


def _groups(pairs: Sequence[tuple[str, str]], sizes: Mapping[str, int], limit: int) -> Iterator[list[tuple[str, str]]]:
    """Consecutive pairs in groups of at most ``limit`` elements, with no tensor of the other model twice."""
    group: list[tuple[str, str]] = []
    held = 0
    for pair in pairs:
        if group and (held + sizes[pair[0]] > limit or pair[1] in {b for _, b in group}):
            yield group
            group, held = [], 0
        group.append(pair)
        held += sizes[pair[0]]
    if group:
        yield group
