"""Taps: what is added to a graph so that one run of it yields the statistics' ingredients, and nothing else is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxptq.calibration.jobs import Job
from onnxptq.calibration.summary import Observed, Tap

DOMAIN = "onnxptq.calib"
_PREFIX = "onnxptq.calib:"


@dataclass(frozen=True)
class Wire:
    """The outputs of the instrumented graph that serve one job."""

    job: Job
    outputs: tuple[str, ...]
    tapped: bool

    def fold(self, values: list[NDArray[Any]], sample: Mapping[str, NDArray[Any]]) -> None:
        """Fold the outputs of one run in."""
        if self.tapped:
            assert isinstance(self.job.summary, Observed)
            self.job.summary.absorb(values[:-1], tuple(int(n) for n in values[-1]))
        else:
            self.job.fold(values[0], values[1:], sample)


def can_tap(job: Job) -> bool:
    """Whether an in-graph observer can do the job."""
    tap = job.summary.tap() if isinstance(job.summary, Observed) else None
    return tap is not None and (_plain(tap) or _order(tap) is not None) and not job.partners and job.padding is None


def instrument(proto: onnx.ModelProto, jobs: Sequence[Job], *, taps: bool) -> list[Wire]:
    """Change ``proto`` so that its outputs are what the jobs need; nodes, constants and inputs nobody needs are dropped."""
    nodes: dict[str, list[onnx.NodeProto]] = {}
    wires = []
    for number, job in enumerate(jobs):
        tap = job.summary.tap() if taps and can_tap(job) and isinstance(job.summary, Observed) else None
        if tap is None:
            wires.append(Wire(job, (job.tensor, *job.partners), tapped=False))
            continue
        base = f"{_PREFIX}{number}"
        observer = list(_observer(tap, job.tensor, base))
        nodes.setdefault(job.tensor, []).extend(observer)
        wires.append(Wire(job, (*observer[-1].output, f"{base}/shape"), tapped=True))
    _insert(proto.graph, nodes)
    inputs = {i.name for i in proto.graph.input}
    _keep(proto, list(dict.fromkeys(name for wire in wires for name in wire.outputs if name not in inputs)))
    if nodes and DOMAIN not in {o.domain for o in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return wires


def with_shapes(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``proto`` changed to output nothing but the shapes of some tensors, in order."""
    proto.graph.node.extend(helper.make_node("Shape", [name], [f"{_PREFIX}{i}"], name=f"{_PREFIX}{i}") for i, name in enumerate(names))
    _keep(proto, [f"{_PREFIX}{i}" for i in range(len(names))])
    return proto


def _observer(tap: Tap, tensor: str, base: str) -> Iterator[onnx.NodeProto]:
    """The nodes of one observer; its op comes last."""
    yield helper.make_node("Shape", [tensor], [f"{base}/shape"], name=f"{base}/shape")
    attributes: dict[str, int] = dict(tap.attributes)
    if not _plain(tap):
        yield from _matrix(tap, tensor, base)
        tensor, attributes = f"{base}/matrix", attributes | ({} if tap.rows else {"axis": -1, "per_channel": 1})
    elif isinstance(tap.axis, int) and not tap.rows:
        attributes |= {"axis": tap.axis, "per_channel": 1}
    outputs = [f"{base}/{i}" for i in range(tap.outputs)]
    node = helper.make_node(tap.op, [tensor], outputs, name=f"{base}/op", domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, number) for key, number in attributes.items())
    yield node


def _plain(tap: Tap) -> bool:
    """Whether the op can read the tensor as it stands."""
    if tap.rows:
        return tap.axis == -1
    return not isinstance(tap.axis, tuple) and (tap.heads is None or tap.axis in (None, -1))


def _order(tap: Tap) -> tuple[list[int], list[int]] | None:
    """How to bring the channels last without knowing the rank: a first shape (-2: size as it is) and a permutation."""
    if tap.heads is not None and tap.axis in (-3, (-3, -1)):
        return [-1, tap.heads, -2, -2], [0, 2, 3, 1] if tap.axis == -3 else [0, 2, 1, 3]
    if tap.heads is None and tap.axis == 1:
        return [0, 0, -1], [0, 2, 1]
    return None


def _matrix(tap: Tap, tensor: str, base: str) -> Iterator[onnx.NodeProto]:
    """Nodes that make ``base/matrix``, whose last axis counts the channels, rows in their order in the tensor."""
    order = _order(tap)
    assert order is not None, tap
    first, permutation = order
    yield _constant(f"{base}/first", [n for n in first if n != -2])
    shape = f"{base}/first"
    if -2 in first:
        yield helper.make_node("Shape", [tensor], [f"{base}/tail"], name=f"{base}/tail", start=-2)
        yield helper.make_node("Concat", [f"{base}/first", f"{base}/tail"], [f"{base}/split"], name=f"{base}/split", axis=0)
        shape = f"{base}/split"
    yield helper.make_node("Reshape", [tensor, shape], [f"{base}/apart"], name=f"{base}/apart")
    last = f"{base}/turned" if len(first) == 4 else f"{base}/matrix"
    yield helper.make_node("Transpose", [f"{base}/apart"], [last], name=last, perm=permutation)
    if len(first) == 4:
        target = [-1, tap.heads] if tap.axis == -3 else [0, 0, -1]
        yield _constant(f"{base}/columns", [int(n or 0) for n in target])
        yield helper.make_node("Reshape", [last, f"{base}/columns"], [f"{base}/matrix"], name=f"{base}/matrix")


def _insert(graph: onnx.GraphProto, after: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put each observer directly behind the node whose output it reads, so that the tensor can be freed as early as ever."""
    nodes = list(graph.node)
    del graph.node[:]
    made = {name for node in nodes for name in node.output}
    for name, observers in after.items():
        if name not in made:
            graph.node.extend(observers)
    for node in nodes:
        graph.node.append(node)
        for name in node.output:
            graph.node.extend(after.get(name, ()))


def _keep(proto: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Reduce the graph to what the outputs need."""
    graph = proto.graph
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needed: set[str] = set()
    used: set[int] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in maker and maker[name] not in used:
            used.add(maker[name])
            stack.extend(_reads(graph.node[maker[name]]))
    kept = [node for index, node in enumerate(graph.node) if index in used]
    del graph.node[:]
    graph.node.extend(kept)
    for held in (graph.initializer, graph.input):
        for index in range(len(held) - 1, -1, -1):
            if held[index].name not in needed:
                del held[index]
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors a node needs, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        graphs: Iterable[onnx.GraphProto] = [attribute.g, *attribute.graphs] if attribute.type in _GRAPHS else ()
        for graph in graphs:
            for inner in graph.node:
                yield from _reads(inner)
            yield from (output.name for output in graph.output)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(np.array(values, np.int64)))
