"""Comparing outputs: SQNR, cosine, largest error, and for masks the agreement of the two predictions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import ArtifactError, InputError
from onnxptq.running.runner import Cut, InnerTensors, Outputs, Sample, Spool, run, whole
from onnxptq.running.sessions import Executor, ModelLike

CHUNK = 1 << 20
FETCHED = 1 << 26
"""Bytes of inner tensors that leave a session together: they are all held until its run ends."""
Rows = Callable[[str, tuple[int, ...]], NDArray[np.int64] | None]
"""Where, on all axes but the last, the rows are that stand for a tensor of that name and shape; None: all of it
counts."""
MASK_CHANNELS = 8
MASK_SIDE = 8


@dataclass(frozen=True)
class Metrics:
    """How far one output is from the reference, over all samples. None where a figure has no meaning for this
    output."""

    samples: int
    sqnr: float | None
    """Signal over error of all samples together, dB. inf: equal to the last bit; -inf: error without signal, or NaN."""
    median: float | None
    """Median over the samples of each one's SQNR."""
    worst: float | None
    """SQNR of the worst sample."""
    cosine: float | None
    max_error: float
    equal: float
    """Share of elements that are equal (what counts for integer outputs)."""
    agreement: float | None = None
    """Mean IoU of the two predictions, for masks only; two empty masks agree. No labels are needed."""
    broken: int = 0
    """Elements that are NaN or infinite in one of the two and not the same in the other."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinities become the texts "inf" and "-inf"."""
        return {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metrics:
        """The inverse of ``to_json``."""
        plain: dict[str, Any] = {k: float(v) if v in ("inf", "-inf") else v for k, v in data.items()}
        return cls(**plain)


def metrics(reference: NDArray[Any], other: NDArray[Any]) -> Metrics:
    """Metrics of one pair of arrays."""
    held = Accumulator()
    held.update(reference, other)
    return held.result()


def decibels(signal: float, error: float) -> float:
    """10 log10(signal / error), with infinities where one of them is zero: no error is inf, also without a signal."""
    if error == 0:
        return math.inf
    return -math.inf if signal == 0 or math.isinf(error) else 10 * math.log10(signal / error)


@dataclass
class Accumulator:
    """Metrics of one output, sample by sample, in constant memory."""

    signal: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_error: float = 0.0
    same: int = 0
    count: int = 0
    broken: int = 0
    low: float = math.inf
    high: float = -math.inf
    discrete: bool = False
    logits: bool = False
    """Whether its masks, if they are some, are logits: values must lie on both sides of zero."""
    per_sample: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Fold one sample in; a ValueError where the shapes differ."""
        if reference.shape != other.shape:
            raise ValueError(f"shape {list(reference.shape)} in the reference, {list(other.shape)} in the other")
        self.discrete |= reference.dtype.kind != "f"
        self.logits = reference.dtype.kind == "f" and reference.ndim == 4 and reference.shape[1] != 2
        signal, error, broken = self.signal, self.error, self.broken
        a, b = reference.reshape(-1), other.reshape(-1)
        for start in range(0, a.size, CHUNK):
            self._fold(a[start : start + CHUNK], b[start : start + CHUNK])
        lost = math.inf if self.broken > broken else 0.0
        self.per_sample.append(decibels(self.signal - signal, self.error - error + lost))
        self.overlaps.extend(overlaps(reference, other))

    def _fold(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (a == b) | (np.isnan(x) & np.isnan(y))
        bad = ~(np.isfinite(x) & np.isfinite(y))
        self.same += int(equal.sum())
        self.count += a.size
        self.broken += int((bad & ~equal).sum())
        x[bad] = y[bad] = 0.0
        difference = np.abs(x - y)
        self.signal += float(x @ x)
        self.energy += float(y @ y)
        self.product += float(x @ y)
        self.error += float(difference @ difference)
        self.max_error = max(self.max_error, float(difference.max(initial=0.0)))
        self.low, self.high = min(self.low, float(x.min(initial=0.0))), max(self.high, float(x.max(initial=0.0)))

    def result(self) -> Metrics:
        """The metrics of all samples folded in so far."""
        equal = self.same / self.count if self.count else 1.0
        agreement = (
            statistics.fmean(self.overlaps) if self.overlaps and (not self.logits or self.low < 0 < self.high) else None
        )
        samples = len(self.per_sample)
        worst = math.inf if self.broken else self.max_error
        if self.discrete or not self.count:
            return Metrics(samples, None, None, None, None, worst, equal, agreement, self.broken)
        norm = math.sqrt(self.signal) * math.sqrt(self.energy)
        return Metrics(
            samples=samples,
            sqnr=decibels(self.signal, math.inf if self.broken else self.error),
            median=statistics.median_low(self.per_sample),
            worst=min(self.per_sample),
            cosine=min(1.0, self.product / norm) if norm > 0 and not self.broken else None,
            max_error=worst,
            equal=equal,
            agreement=agreement,
            broken=self.broken,
        )


def overlaps(reference: NDArray[Any], other: NDArray[Any]) -> list[float]:
    """IoU of each mask predicted by both; [] where an output cannot be masks.

    Masks are, by shape and type: floats [N, C, H, W] with H, W >= 8 and C <= 8, where two channels are classes (argmax)
    and any other number are masks of their own (logit > 0; the Accumulator asks that values lie on both sides of zero);
    or integers and booleans [..., H, W], whose labels are compared one by one. Feature maps have more channels, token
    sequences fewer axes: no masks.
    """
    shape = reference.shape
    if len(shape) < 3 or min(shape[-2:]) < MASK_SIDE or reference.size == 0:
        return []
    if reference.dtype.kind in "biu":
        return [_labels(a, b) for a, b in zip(_flat(reference), _flat(other), strict=True)]
    if reference.dtype.kind != "f" or len(shape) != 4 or shape[1] > MASK_CHANNELS:
        return []
    if shape[1] == 2:
        a, b = reference[:, 1] > reference[:, 0], other[:, 1] > other[:, 0]
    else:
        a, b = reference > 0, other > 0
    return [_iou(x, y) for x, y in zip(_flat(a), _flat(b), strict=True)]


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    return x.reshape(-1, x.shape[-2] * x.shape[-1])


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _labels(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean IoU over the labels that either has; for booleans that of True."""
    if a.dtype.kind == "b":
        return _iou(a, b.astype(bool))
    return statistics.fmean(_iou(a == label, b == label) for label in np.union1d(a, b))


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
    """Metrics of each output both models have. ``samples`` are walked twice, one model after the other.

    With ``artifact`` the other model is one we made: that it fails, or gives NaN where the reference does not, is an
    ArtifactError.
    """
    blame: type[Exception] = ArtifactError if artifact else InputError
    with Spool() as expected:
        expected.fill(
            run(reference, samples, name=names[0], cut=cut, executor=executor, threads=threads, error=InputError)
        )
        found = compare(
            expected,
            run(other, samples, name=names[1], cut=cut, executor=executor, threads=threads, error=blame),
            error=blame,
        )
    for name, one in found.items():
        if artifact and one.broken:
            raise ArtifactError(
                f"{names[1]}: output {name!r} has {one.broken} NaN or infinite elements where the original has none"
            )
    return found


def compare(
    expected: Iterable[Outputs], got: Iterable[Outputs], *, error: type[Exception] = InputError
) -> dict[str, Metrics]:
    """Metrics of each output by name, over samples given side by side."""
    held: dict[str, Accumulator] = {}
    for a, b in zip(expected, got, strict=True):
        shared = [name for name in a if name in b]
        if not shared:
            raise error(f"the two models have no output in common: {', '.join(a)} and {', '.join(b)}")
        for name in shared:
            try:
                held.setdefault(name, Accumulator()).update(a[name], b[name])
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
    """Metrics of inner tensors, by the reference's name and in the order given; each pair names one tensor in either
    model.

    Of those to which ``rows`` gives places, by the reference's name, only these are compared; ``cut`` does not see
    them.

    Tensors are fetched in groups whose values for one sample fit in ``memory_limit`` bytes (64 MiB; one tensor at
    least).
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
            found |= compare(expected, run(others, samples, cut=named, **how), error=ArtifactError)
    return {a: replace(found[a], agreement=None) for a, _ in known}


def _named(names: Sequence[str], part: Container[str], cut: Cut, outputs: Outputs, sample: Sample) -> Outputs:
    """Outputs by these names instead of their own, and what counts of those that are whole."""
    held = dict(zip(names, outputs.values(), strict=True))
    return {**held, **cut({name: array for name, array in held.items() if name not in part}, sample)}


def _groups(pairs: Sequence[tuple[str, str]], sizes: Mapping[str, int], limit: int) -> Iterator[list[tuple[str, str]]]:
    """Consecutive pairs, each group with at most ``limit`` elements and no tensor of the other model twice."""
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
