"""Attentions of a canonical graph, and the linears that produce their operands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.attention import Operand, Scores, operand, scores
from onnxptq.graph.dataflow.flow import scaling
from onnxptq.graph.dataflow.trace import Tracer, columns, heads
from onnxptq.graph.edit import only_reader, producer
from onnxptq.graph.model import Model
from onnxptq.structure.types import Attention, Linear, Source


@dataclass(frozen=True)
class Addition:
    """The factor and terms applied to the scores, and whether a fused attention can apply them."""

    factor: float
    additive: tuple[str, ...]
    rel_h: str | None
    rel_w: str | None
    fusable: bool


def attentions(model: Model, lines: dict[str, Linear], tracer: Tracer, varying: set[str]) -> dict[str, Attention]:
    """Attentions by the name of their Softmax."""
    found: dict[str, Attention] = {}
    by_output = {line.output: line for line in lines.values()}
    for node in model.graph.nodes:
        path = scores(node, varying) if node.op == "Softmax" else None
        if path is not None:
            found[node.name] = _attention(model, path, by_output, lines, tracer)
    return found


def _attention(
    model: Model, path: Scores, by_output: dict[str, Linear], lines: dict[str, Linear], tracer: Tracer
) -> Attention:
    q = operand(path.qk.inputs[0], transposed=False)
    k = operand(path.qk.inputs[1], transposed=True)
    v = path.av.inputs[1]
    added = _additions(path)
    q_source = _source(q.tensor, q.tensor, path.qk, by_output, tracer)
    k_source = _source(k.tensor, _read(k), path.qk, by_output, tracer)
    v_source = _source(v, v, path.av, by_output, tracer)
    shape, key_shape = q.tensor.shape or [], k.tensor.shape or []
    count = next((len(s.channels) for s in (q_source, k_source, v_source) if s is not None), _leading(shape))
    o_linear, o_channels = _projection(model, path.av.outputs[0], count, lines, tracer)
    return Attention(
        name=path.softmax.name,
        qk=path.qk.name,
        av=path.av.name,
        q=q.tensor.name,
        k=k.tensor.name,
        v=v.name,
        probabilities=path.probabilities.name,
        output=path.av.outputs[0].name,
        scale=q.factor * k.factor * added.factor,
        heads=count,
        dim=int(shape[-1]) if shape and isinstance(shape[-1], int) else 0,
        queries=_static(shape),
        keys=_static(key_shape),
        q_source=q_source,
        k_source=k_source,
        v_source=v_source,
        o_linear=o_linear,
        o_channels=o_channels,
        additive=added.additive,
        rel_h=added.rel_h,
        rel_w=added.rel_w,
        apart=_apart(model, path, added, q, k),
    )


def _apart(model: Model, path: Scores, added: Addition, q: Operand, k: Operand) -> str:
    """Why one fused op cannot compute the attention; empty where it can."""
    if not added.fusable:
        return "something else than scale, bias and relative position lies between product and softmax"
    if path.thinned:
        return "probabilities are masked behind the softmax"
    if path.reshape is not None:
        return "probabilities are reshaped"
    return "" if _alone(model, path, q, k) else "other nodes read its scores, or keys are not transposed on their own"


def _static(shape: list[int | str | None]) -> int | None:
    return shape[-2] if len(shape) > 1 and isinstance(shape[-2], int) else None


def _leading(shape: list[int | str | None]) -> int:
    """The number of heads of an operand that no linear produces: the axis before the last two."""
    return shape[-3] if len(shape) > 3 and isinstance(shape[-3], int) else 1


def _additions(path: Scores) -> Addition:
    """Scalar factors and additive terms between product and softmax, and whether there is nothing else."""
    factor = 1.0
    terms: list[str] = []
    rows: gs.Tensor | None = None
    cols: gs.Tensor | None = None
    fusable, grid = True, False
    here = result = path.qk.outputs[0]
    for step in path.steps:
        scaled = scaling(step)
        other = next((t for t in step.inputs if t is not here), None)
        if scaled is not None:
            factor *= scaled[1]
            # Scaling a sum would scale its terms as well.
            fusable &= not terms and not grid
        elif step.op == "Reshape":
            grid = not grid
        elif step.op == "Add" and other is not None and not grid:
            terms.append(other.name)
            fusable &= _broadcasts(other, result)
        elif step.op == "Add" and other is not None:
            made = producer(other)
            inner = made.inputs[0] if made is not None and made.op == "Unsqueeze" else None
            shape = list(other.shape or [])
            if inner is not None and shape[-1:] == [1] and rows is None:
                rows = inner
            elif inner is not None and shape[-2:-1] == [1] and cols is None:
                cols = inner
            else:
                fusable = False
        else:
            fusable = False
        here = step.outputs[0]
    if rows is None or cols is None:
        fusable &= rows is cols and not any(s.op == "Reshape" for s in path.steps)
    else:
        fusable &= not grid and _is_relative(rows, result) and _is_relative(cols, result)
    return Addition(
        factor, tuple(terms), rows.name if rows is not None else None, cols.name if cols is not None else None, fusable
    )


def _broadcasts(term: gs.Tensor, result: gs.Tensor) -> bool:
    """Whether the scores keep their shape when a term is added."""
    if term.shape is None or result.shape is None or len(term.shape) > len(result.shape):
        return False
    return all(
        not isinstance(a, int) or a == 1 or a == b for a, b in zip(term.shape[::-1], result.shape[::-1], strict=False)
    )


def _is_relative(term: gs.Tensor, result: gs.Tensor) -> bool:
    """Whether a relative position term is [..., Nq, H] (or W) for scores [..., Nq, Nk]."""
    if term.shape is None or result.shape is None or len(term.shape) != len(result.shape):
        return False
    return all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(term.shape[:-1], result.shape[:-1], strict=True)
    )


def _alone(model: Model, path: Scores, q: Operand, k: Operand) -> bool:
    """Whether the tensors between q, k and the output have no other readers."""
    nodes = [
        path.qk,
        *path.steps,
        *path.behind[-1:],
        *q.scales,
        *k.scales,
        *([k.transpose] if k.transpose is not None else []),
    ]
    if not path.behind:
        nodes.append(path.softmax)
    return k.transpose is not None and all(only_reader(node.outputs[0], model) is not None for node in nodes)


def _read(k: Operand) -> gs.Tensor:
    """The keys as read by the first node that does more than move elements."""
    if k.transpose is not None and k.transpose.inputs[0] is k.tensor:
        transposed: gs.Tensor = k.transpose.outputs[0]
        return transposed
    return k.tensor


def _source(
    tensor: gs.Tensor, read: gs.Tensor, product: gs.Node, by_output: dict[str, Linear], tracer: Tracer
) -> Source | None:
    """The linear that produces an operand, and the position of its channels.

    ``read`` is the tensor that the product or its scaling reads.
    """
    origin = tracer.origin(tensor)
    line = by_output.get(origin[0].name) if len(origin) == 1 else None
    if line is None:
        return None
    numbers = tracer.channels(origin[0], tensor)
    channels = heads(numbers) if numbers is not None else None
    if channels is None:
        return None
    mine = set(channels.reshape(-1).tolist())
    others: set[int] = set()
    for reader in tracer.readers(origin[0]):
        if reader.node is not None and reader.tensor is read and _leads_to(reader.node, product):
            continue
        seen = tracer.channels(origin[0], reader.tensor)
        others |= set(range(line.outputs)) if seen is None else _present(seen, line.outputs)
    return Source(line.name, channels, not mine & others)


def _present(numbers: NDArray[np.int32], count: int) -> set[int]:
    """The distinct channels (from 0) among ``numbers``; faster than sorting them."""
    mark = np.zeros(count + 1, dtype=bool)
    mark[numbers.reshape(-1)] = True
    return set(np.flatnonzero(mark[1:]).tolist())


def _leads_to(node: gs.Node, product: gs.Node) -> bool:
    """Whether a node is the product, or a scalar factor or transposition that leads only there."""
    for _ in range(8):
        if node is product:
            return True
        if len(node.outputs) != 1 or len(node.outputs[0].outputs) != 1 or not (scaling(node) or node.op == "Transpose"):
            return False
        node = node.outputs[0].outputs[0]
    return False


def _projection(
    model: Model, output: gs.Tensor, count: int, lines: dict[str, Linear], tracer: Tracer
) -> tuple[str | None, NDArray[np.int64] | None]:
    """The one linear that reads the whole output of an attention, and at which input channels."""
    readers = tracer.readers(output)
    shape = tracer.shape(output)
    if len(readers) != 1 or readers[0].node is None or shape is None or len(shape) < 2:
        return None, None
    line = lines.get(readers[0].node.name)
    if line is None or line.input != readers[0].tensor.name:
        return None, None
    lead, width = int(np.prod(shape[:-2])), shape[-1]
    if lead % count or count * width != line.inputs:
        return None, None
    head = np.arange(lead) % count * width + 1
    numbers = (head[:, None, None] + np.arange(width)).astype(np.int32)
    ends = tracer.follow(output, np.broadcast_to(numbers, (lead, shape[-2], width)).reshape(shape), readers[0].tensor)
    places = columns(ends) if ends is not None and ends.all() else None
    if places is None or sorted(places.tolist()) != list(range(line.inputs)):
        return None, None
    return line.name, np.argsort(places).reshape(count, width)
