"""Budget: a width for each site, so that the file keeps the user's wishes: average width, size, quality."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxptq.bits import FLOAT
from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.split import Samples
from onnxptq.errors import InputError
from onnxptq.lower.writer import HALF_MINIMUM
from onnxptq.pipeline.allocation import NARROWEST, allocate, average, of_role
from onnxptq.pipeline.candidates import native_proto
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.selection import judge, mean_sqnr
from onnxptq.pipeline.sensitivity import Sensitivity, sensitivities, with_rounded
from onnxptq.pipeline.stages import LOWER, Calibrated, Folded, Prepared, Solved, calibrate, fold, planned, solve
from onnxptq.report.data import Verdict
from onnxptq.report.text import megabytes
from onnxptq.running.metrics import Metrics
from onnxptq.structure import Role

GRID = 0.25
"""Step of the average widths that are tried for a wished quality."""
SIZINGS, CLOSE = 8, 0.995
"""Most widths tried for a wished size, and the fraction of it that is near enough."""


def budgeted(
    prepared: Prepared, samples: Samples, config: RunConfig, context: RunContext
) -> tuple[Solved, RunConfig, tuple[str, ...]]:
    """The model with the widths that keep all wishes, the request with these widths, and a note about them."""
    context = replace(context, checkpoint=None)
    if config.max_loss is not None and _loss(_judged(prepared, None, samples, config, context)) is None:
        raise InputError(f"--max-loss: no output of {prepared.name} is a mask; use --min-sqnr instead")
    folded = fold(prepared, samples, config, context)
    search = Search(prepared, folded, sensitivities(folded, samples, config, context), samples, config, context)
    solved = search.smallest() if config.judged else search.solved(search.most())
    return solved, replace(config, widths=search.widths), (search.words(),)


def check_size(prepared: Prepared, config: RunConfig) -> None:
    """Raise an InputError if not even the narrowest weights fit in the wished size."""
    if config.max_size is None:
        return
    plan, tensors = planned(prepared.name, prepared.structure, config)[0], prepared.model.graph.tensors()
    claimed = {site.tensor: site for site in plan.sites.values() if site.role is Role.WEIGHT}
    least = sum(np.asarray(tensors[name].values).size * NARROWEST // 8 for name in claimed)
    for constant in prepared.model.constants():
        if constant.name not in claimed:
            half = constant.dtype == np.float32 and config.constants == "fp16" and constant.values.size >= HALF_MINIMUM
            least += constant.values.nbytes // (2 if half else 1)
    if least > config.max_size:
        raise InputError(
            f"--max-size {megabytes(config.max_size)}: weights of {NARROWEST} bits and the constants alone take "
            f"{megabytes(least)}"
        )


def broken(config: RunConfig, size: int, outputs: Mapping[str, Metrics]) -> tuple[str, ...]:
    """Warnings about wishes that the finished file does not keep, on the samples of the report."""
    found = []
    if config.max_size is not None and size > config.max_size:
        found.append(f"--max-size {megabytes(config.max_size)}: the file has {megabytes(size)}")
    masks = [100 * (1 - one.agreement) for one in outputs.values() if one.agreement is not None]
    if config.max_loss is not None and masks and (loss := statistics.fmean(masks)) > config.max_loss:
        found.append(
            f"--max-loss {config.max_loss:g}: kept on the samples of the selection, but {loss:.2f} points are lost on "
            f"those of the report; more samples make the promise safer"
        )
    sqnr = mean_sqnr(outputs)
    if config.min_sqnr is not None and sqnr is not None and sqnr < config.min_sqnr:
        found.append(
            f"--min-sqnr {config.min_sqnr:g}: kept on the samples of the selection, but those of the report have "
            f"{sqnr:.1f} dB"
        )
    return tuple(found)


@dataclass
class Search:
    """The search for widths; it remembers the last widths and parameters that it tried."""

    prepared: Prepared
    folded: Folded
    found: dict[str, Sensitivity]
    samples: Samples
    config: RunConfig
    context: RunContext
    widths: dict[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    _known: Calibrated | None = None

    def most(self) -> float:
        """The largest average width of the weights that the wished averages and size allow."""
        bits = self.config.bits
        most = float(bits.weights) if bits.average is None else min(bits.average, bits.weights)
        if self.config.max_size is None or bits.weights == FLOAT:
            return most
        wished, (low, high) = self.config.max_size, (float(NARROWEST), most)
        sizes = self._size(low), self._size(high)
        if sizes[1] <= wished:
            return high
        if sizes[0] > wished:
            raise InputError(
                f"--max-size {megabytes(wished)}: with weights of {NARROWEST} bits the file has {megabytes(sizes[0])}"
            )
        for _ in range(SIZINGS):
            share = min(max((wished - sizes[0]) / (sizes[1] - sizes[0]), 0.1), 0.9)
            middle = low + share * (high - low)
            size = self._size(middle)
            if size > wished:
                high, sizes = middle, (sizes[0], size)
            else:
                low, sizes = middle, (size, sizes[1])
            if CLOSE * wished <= sizes[0]:
                break
        return low

    def _size(self, weights: float) -> int:
        """Bytes of the file, which do not depend on the values of the codes."""
        calibrated, config = self._calibrated(weights)
        plan = with_rounded(calibrated.plan, self.folded, self.samples, config, self.context, "minmax")
        lowered = LOWER[config.format](self.folded.model, self.folded.structure, plan, constants=config.constants)
        return int(lowered.proto.ByteSize())

    def allocated(self, weights: float) -> dict[str, int]:
        """The best widths for an average width of the weights."""
        bits, found = self.config.bits, self.found
        widths: dict[str, int] = {}
        for held, widest, mean in (
            (of_role(found, weights=True), bits.weights, weights),
            (of_role(found, weights=False), bits.activations, bits.average or bits.activations),
        ):
            size = sum(one.size for one in held.values())
            if widest != FLOAT:
                widths |= allocate(held, budget=size * mean, widest=widest)
        return widths

    def _calibrated(self, weights: float) -> tuple[Calibrated, RunConfig]:
        self.widths = self.allocated(weights)
        config = replace(self.config, widths=self.widths)
        found = calibrate(self.folded, self.samples, config, self.context, self._known, self.prepared.name)
        self._known = replace(found, plan=found.plan.about(model=self.prepared.digest))
        return self._known, config

    def solved(self, weights: float) -> Solved:
        """The model with its widths, solved."""
        calibrated, config = self._calibrated(weights)
        return solve(calibrated, self.samples, config, self.context)

    def smallest(self) -> Solved:
        """The narrowest weights whose outputs are as good as wished, on the samples of the selection."""
        most = self.most()
        steps = [NARROWEST + GRID * i for i in range(math.ceil((most - NARROWEST) / GRID))] + [most]
        kept, verdict = self._tried(most)
        if kept is None:
            raise InputError(f"{self._wish()}: not possible here; {self._reached(verdict)} with all that is allowed")
        best, widths, low, high = kept, self.widths, -1, len(steps) - 1
        self.verdict = verdict
        while high - low > 1:
            middle = (low + high) // 2
            kept, verdict = self._tried(steps[middle])
            if kept is None:
                low = middle
            else:
                best, widths, self.verdict, high = kept, self.widths, verdict, middle
        self.widths = widths
        return best

    def _tried(self, weights: float) -> tuple[Solved | None, Verdict]:
        """The model, if it is as good as wished; and its scores."""
        solved = self.solved(weights)
        verdict = _judged(self.prepared, solved, self.samples, self.config, self.context)
        loss, config = _loss(verdict), self.config
        kept = (config.max_loss is None or (loss is not None and loss <= config.max_loss)) and (
            config.min_sqnr is None or (verdict.sqnr is not None and verdict.sqnr >= config.min_sqnr)
        )
        return (solved if kept else None), verdict

    def _wish(self) -> str:
        wishes = {"--max-loss": self.config.max_loss, "--min-sqnr": self.config.min_sqnr}
        return " ".join(f"{name} {wish:g}" for name, wish in wishes.items() if wish is not None)

    def _reached(self, verdict: Verdict) -> str:
        loss, sqnr = _loss(verdict), verdict.sqnr
        masks = f"{loss:.2f} points of mask agreement lost, " if loss is not None else ""
        return f"{masks}{sqnr:.1f} dB" if sqnr is not None else masks.removesuffix(", ")

    def words(self) -> str:
        """A note about the widths."""
        parts = []
        for what, held in (("weights", True), ("activations", False)):
            one = of_role(self.found, weights=held)
            if one and all(key in self.widths for key in one):
                used = sorted({self.widths[key] for key in one})
                parts.append(f"{what} of {used[0]} to {used[-1]} bits, {average(one, self.widths):.2f} on average")
        reached = f"; on the samples of the selection {self._reached(self.verdict)}" if self.verdict else ""
        return f"widths: {'; '.join(parts)}{reached}"


def _judged(
    prepared: Prepared, solved: Solved | None, samples: Samples, config: RunConfig, context: RunContext
) -> Verdict:
    """Scores of a model (None: the original itself) on the samples of the selection."""
    make = prepared.model.to_proto if solved is None else partial(native_proto, solved)
    (verdict,) = judge(
        prepared.model.to_proto,
        {"these widths": make},
        samples.selection,
        cut=unpadded(prepared.model, prepared.structure.masks),
        threads=config.threads,
        context=context,
    )
    return verdict


def _loss(verdict: Verdict) -> float | None:
    """Points of mask agreement lost; None if there are no masks."""
    return None if verdict.agreement is None else 100 - verdict.agreement
