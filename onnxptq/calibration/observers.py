"""Observers: nodes added to a graph so that one run computes the inputs of the statistics, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxptq.calibration.gradients import is_gradient
from onnxptq.calibration.jobs import Job
from onnxptq.calibration.padding import channels_follow
from onnxptq.calibration.statistics.base import Observed, Observer
from onnxptq.graph.dataflow.tokens import Padding
from onnxptq.graph.reduce import reduced

DOMAIN = "onnxptq.calib"
_PREFIX = "onnxptq.calib:"


@dataclass(frozen=True)
class Wire:
    """The outputs of the instrumented graph that serve one job."""

    job: Job
    outputs: tuple[str, ...]
    observer: tuple[onnx.NodeProto, ...] = ()
    """The nodes that observe the job's tensor; if empty, the tensor is fetched whole."""

    def fold(self, values: list[NDArray[Any]], sample: Mapping[str, NDArray[Any]]) -> None:
        """Fold the outputs of one run in."""
        if self.observer:
            assert isinstance(self.job.statistic, Observed)
            observed = len(values) - len(self.job.partners) - 1
            shape = tuple(int(n) for n in values[observed])
            # Copies: one kept view of an output would keep all the memory of a session that is gone.
            self.job.statistic.absorb([np.array(one) for one in values[:observed]], shape, *values[observed + 1 :])
        else:
            self.job.fold(values[0], values[1:], sample)


def can_observe(job: Job) -> bool:
    """Whether an in-graph observer can serve the job."""
    observer = job.statistic.observer() if isinstance(job.statistic, Observed) else None
    if (
        observer is None
        or (job.partners and not observer.partners)
        or not (_plain(observer) or _order(observer) is not None)
    ):
        return False
    return job.padding is None or (
        _plain(observer) and job.padding.axis < 0 and channels_follow(observer.axis, job.padding.axis)
    )


def wired(jobs: Sequence[Job], *, observers: bool) -> list[Wire]:
    """Connect each job to an observer if it has one, else to its fetched tensor."""
    wires = []
    for number, job in enumerate(jobs):
        observer = (
            job.statistic.observer() if observers and can_observe(job) and isinstance(job.statistic, Observed) else None
        )
        if observer is None:
            wires.append(Wire(job, (job.tensor, *job.partners)))
            continue
        base = f"{_PREFIX}{number}"
        nodes = tuple(_observer(observer, job.tensor, job.padding, base))
        wires.append(Wire(job, (*nodes[-1].output, f"{base}/shape", *job.partners), nodes))
    return wires


def needed(wires: Sequence[Wire], inputs: Collection[str]) -> list[str]:
    """The tensors that the graph has to compute; inputs and gradients are excluded."""
    return list(
        dict.fromkeys(name for wire in wires for name in wire.outputs if name not in inputs and not is_gradient(name))
    )


def instrument(proto: onnx.ModelProto, wires: Sequence[Wire]) -> onnx.ModelProto:
    """Change ``proto`` to output what the wires need; drop other nodes, constants and inputs."""
    observers: dict[str, list[tuple[onnx.NodeProto, ...]]] = {}
    for wire in wires:
        if wire.observer:
            observers.setdefault(wire.job.tensor, []).append(wire.observer)
    _append(proto.graph, observers)
    if observers and DOMAIN not in {o.domain for o in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    outputs = needed(wires, {i.name for i in proto.graph.input})
    return reduced(proto, [helper.make_empty_tensor_value_info(name) for name in outputs])


def _observer(observer: Observer, tensor: str, padding: Padding | None, base: str) -> Iterator[onnx.NodeProto]:
    """The nodes of one observer; its op comes last."""
    if padding is not None:
        yield from _compress(tensor, padding, base)
        tensor = f"{base}/valid"
    yield helper.make_node("Shape", [tensor], [f"{base}/shape"], name=f"{base}/shape")
    attributes: dict[str, int] = dict(observer.attributes)
    if not _plain(observer):
        yield from _matrix(observer, tensor, base)
        tensor, attributes = f"{base}/matrix", attributes | ({} if observer.rows else {"axis": -1, "per_channel": 1})
    elif isinstance(observer.axis, int) and not observer.rows:
        attributes |= {"axis": observer.axis, "per_channel": 1}
    outputs = [f"{base}/{i}" for i in range(observer.outputs)]
    node = helper.make_node(observer.op, [tensor], outputs, name=f"{base}/op", domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, number) for key, number in attributes.items())
    yield node


def _compress(tensor: str, padding: Padding, base: str) -> Iterator[onnx.NodeProto]:
    """Nodes that compute ``base/valid``: the rows of valid tokens, as in ``valid_rows``."""

    def node(op: str, inputs: str, output: str, *outside: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(
            op,
            [*outside, *(f"{base}/{i}" for i in inputs.split())],
            [f"{base}/{output}"],
            f"{base}/{output}",
            **attributes,
        )

    for name, numbers in (("all", [-1]), ("one", [1]), ("two", [0, -1])):
        yield _constant(f"{base}/{name}", numbers)
    yield node("Cast", "", "bool", padding.mask, to=onnx.TensorProto.BOOL)
    yield node("Reshape", "bool two", "tokens")
    yield node("Unsqueeze", "tokens one", "apart")
    yield node("Shape", "tokens", "batch", end=1)
    yield node("Shape", "tokens", "length", start=1)
    yield node("Shape", "", "lead", tensor, **({"end": padding.axis + 1} if padding.axis < -1 else {}))
    yield node("ReduceProd", "lead", "rows")
    yield node("Size", "tokens", "size")
    yield node("Div", "rows size", "repeat")
    yield node("Concat", "batch repeat length", "full", axis=0)
    yield node("Expand", "apart full", "repeated")
    yield node("Reshape", "repeated all", "keep")
    if padding.axis < -1:
        yield node("Shape", "", "rest", tensor, start=padding.axis + 1)
        yield node("Concat", "all rest", "target", axis=0)
    yield node("Reshape", "target" if padding.axis < -1 else "all", "flat", tensor)
    yield node("Compress", "flat keep", "valid", axis=0)


def _plain(observer: Observer) -> bool:
    """Whether the op can read the tensor without reshaping."""
    if observer.rows:
        return observer.axis == -1
    return not isinstance(observer.axis, tuple) and (observer.heads is None or observer.axis in (None, -1))


def _order(observer: Observer) -> tuple[list[int], list[int]] | None:
    """How to move the channels last without knowing the rank: a first shape (-2 keeps a size) and a permutation."""
    if observer.heads is not None and observer.axis in (-3, (-3, -1)):
        return [-1, observer.heads, -2, -2], [0, 2, 3, 1] if observer.axis == -3 else [0, 2, 1, 3]
    if observer.heads is None and observer.axis == -2:
        return [-1, -2, -2], [0, 2, 1]
    if observer.heads is None and observer.axis == 1:
        return [0, 0, -1], [0, 2, 1]
    return None


def _matrix(observer: Observer, tensor: str, base: str) -> Iterator[onnx.NodeProto]:
    """Nodes that compute ``base/matrix``: channels on the last axis, rows in their order in the tensor."""
    order = _order(observer)
    assert order is not None, observer
    first, permutation = order
    yield _constant(f"{base}/first", [n for n in first if n != -2])
    shape = f"{base}/first"
    if -2 in first:
        yield helper.make_node("Shape", [tensor], [f"{base}/tail"], name=f"{base}/tail", start=-2)
        yield helper.make_node(
            "Concat", [f"{base}/first", f"{base}/tail"], [f"{base}/split"], name=f"{base}/split", axis=0
        )
        shape = f"{base}/split"
    yield helper.make_node("Reshape", [tensor, shape], [f"{base}/apart"], name=f"{base}/apart")
    yield helper.make_node("Transpose", [f"{base}/apart"], [f"{base}/turned"], name=f"{base}/turned", perm=permutation)
    rows = 3 if observer.axis == -3 else 2
    yield helper.make_node("Flatten", [f"{base}/turned"], [f"{base}/matrix"], name=f"{base}/matrix", axis=rows)


def _append(graph: onnx.GraphProto, observers: Mapping[str, Sequence[Sequence[onnx.NodeProto]]]) -> None:
    """Append the observers of each tensor, those of the deepest tensors first.

    onnxruntime orders nodes by a depth-first search from the last node without readers. So it reaches the observers of
    the first tensors first. Each observer runs as soon as its tensor is computed, and the tensor can be freed early.
    """
    depth = {name: index for index, node in enumerate(graph.node) for name in node.output}
    for name in sorted(observers, key=lambda name: depth.get(name, -1), reverse=True):
        for nodes in observers[name]:
            graph.node.extend(nodes)


def _constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node(
        "Constant", [], [name], name=name, value=numpy_helper.from_array(np.array(values, np.int64))
    )
