"""Jobs of a walk: equal requests merged, and one sample's tensor folded into a statistic."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.calibration.padding import valid_rows
from onnxptq.calibration.statistics.base import NotFinite, Observed, Request, Statistic
from onnxptq.errors import InputError
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.graph.model import value


@dataclass
class Job:
    """One tensor and one statistic to fill with it; ``twins`` are equal statistics that get the same answer."""

    tensor: str
    statistic: Statistic
    padding: Padding | None = None
    partners: tuple[str, ...] = ()
    twins: list[Statistic] = field(default_factory=list)
    seen: int = 0
    """Number of samples folded in so far."""
    samples: int | None = None
    """Number of first samples wanted; None: all."""

    def end(self, total: int) -> int:
        """The number of samples it takes, out of ``total``."""
        return total if self.samples is None else min(total, self.samples)

    def fold(self, value: NDArray[Any], partners: list[NDArray[Any]], sample: Mapping[str, NDArray[Any]]) -> None:
        """Fold in one sample's tensor and its partners, padding left out."""
        held = [np.asarray(value, np.float32), *partners]
        if self.padding is not None:
            axis = (
                self.statistic.axis
                if isinstance(self.statistic, Observed) and hasattr(self.statistic, "axis")
                else None
            )
            held = [valid_rows(x, np.asarray(sample[self.padding.mask]), self.padding.axis, axis) for x in held]
        self.statistic.update(*held)

    def answer(self) -> None:
        """Copy the result to the twins."""
        for twin in self.twins:
            twin.load(self.statistic.arrays())


def jobs_of(requests: Mapping[str, Request], paddings: Mapping[str, Padding]) -> list[Job]:
    """The jobs of some requests, in order of first mention; statistics of several parts are split."""
    jobs: dict[Hashable, Job] = {}
    for request in requests.values():
        padding = Padding(request.mask, request.rows) if request.mask is not None else paddings.get(request.tensor)
        parts = request.statistic.parts() if isinstance(request.statistic, Observed) else (request.statistic,)
        for part in parts:
            kind = part.kind() if isinstance(part, Observed) else id(part)
            whole = bool(request.partners) and not (isinstance(part, Observed) and part.row_by_row)
            left_out = None if whole else padding
            key = (request.tensor, left_out, request.partners, request.samples, kind)
            if key in jobs:
                jobs[key].twins.append(part)
            else:
                jobs[key] = Job(request.tensor, part, left_out, request.partners, samples=request.samples)
    return list(jobs.values())


def constant(job: Job, tensor: gs.Tensor | None, node: gs.Node | None) -> bool:
    """Answer a job on a constant, or on a node's constant operand, without a walk; False for other jobs."""
    if tensor is None:
        operands = [one for one in node.inputs[:2] if value(one) is not None] if node is not None else []
        if not operands:
            raise KeyError(f"no tensor {job.tensor!r} in the graph, and no node of that name with a constant operand")
        tensor = operands[-1]
    held = value(tensor)
    if held is None:
        return False
    job.statistic.update(np.asarray(held, np.float32))
    return True


def signature(jobs: list[Job]) -> str:
    """Equal for two lists of jobs with equal requests, across processes."""
    text = "\n".join(
        repr(
            (
                j.tensor,
                j.padding,
                j.partners,
                j.samples,
                j.statistic.kind() if isinstance(j.statistic, Observed) else type(j.statistic).__name__,
            )
        )
        for j in jobs
    )
    return hashlib.sha256(text.encode()).hexdigest()


def not_finite(job: Job, label: str) -> InputError:
    """The error for a tensor that holds NaN or infinity."""
    return InputError(
        f"calibration {label}: tensor {job.tensor!r} holds NaN or infinity; leave this sample out, or check the "
        f"model on it in FP32"
    )


__all__ = ["Job", "NotFinite", "constant", "jobs_of", "not_finite", "signature"]
