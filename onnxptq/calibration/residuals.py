"""Residual streams: the tensor a linear's output is added to, and the rows that are added to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxptq.graph.dataflow.flow import MOVES
from onnxptq.graph.reduce import reads
from onnxptq.running import sessions as runtime

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Residual:
    """``output`` goes only through moves to an addition; the other operand is ``stream``."""

    output: str
    stream: str
    moved: str
    """The operand of the addition that comes from ``output``."""
    moves: onnx.ModelProto | None
    """The nodes from ``output`` to ``moved``; None if they are the same tensor."""
    _known: dict[tuple[int, ...], I64 | None] = field(default_factory=dict, compare=False)

    def places(self, shape: tuple[int, ...], stream: tuple[int, ...]) -> I64 | None:
        """For each row of an output of this shape, the row of the stream that it is added to; -1 where it is dropped.

        None where rows do not stay rows, or do not correspond one to one.
        """
        key = (*shape, -1, *stream)
        if key not in self._known:
            self._known[key] = self._places(shape, stream)
        return self._known[key]

    def _places(self, shape: tuple[int, ...], stream: tuple[int, ...]) -> I64 | None:
        count = int(np.prod(shape[:-1]))
        if self.moves is None:
            return np.arange(count) if shape == stream else None
        session = runtime.session(self.moves, threads=1)
        rows = np.broadcast_to(np.arange(1, count + 1, dtype=np.float32).reshape(*shape[:-1], 1), shape)
        columns = np.broadcast_to(np.arange(1, shape[-1] + 1, dtype=np.float32), shape)
        moved, across = (
            session.run(None, {self.output: np.ascontiguousarray(numbers)})[0] for numbers in (rows, columns)
        )
        if moved.shape != stream or stream[-1] != shape[-1]:
            return None
        moved, across = moved.reshape(-1, shape[-1]), across.reshape(-1, shape[-1])
        whole = moved[:, 0] > 0
        if (moved != moved[:, :1]).any() or (across[whole] != np.arange(1, shape[-1] + 1)).any():
            return None
        found = np.full(count, -1)
        found[moved[whole, 0].astype(np.int64) - 1] = np.flatnonzero(whole)
        return found


class Residuals:
    """Finds the residual streams of a graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in dict.fromkeys(reads(node)):
                self._readers.setdefault(name, []).append(node)
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}
        self._constants = {held.name: held for held in proto.graph.initializer}
        self._outputs = {output.name for output in proto.graph.output}

    def of(self, node: str) -> Residual | None:
        """The residual stream that the output of a linear is added to, after its bias."""
        output = next(one for one in self._proto.graph.node if one.name == node).output[0]
        behind = self._readers.get(output, [])
        if len(behind) == 1 and behind[0].op_type == "Add" and any(name in self._constants for name in behind[0].input):
            output = behind[0].output[0]
        pending, additions, seen = [output], [], set[str]()
        while pending:
            here = pending.pop()
            if here in self._outputs:
                return None
            if here in seen:
                continue
            seen.add(here)
            for reader in self._readers.get(here, []):
                if reader.op_type in MOVES and not reader.domain:
                    pending += reader.output
                elif reader.op_type not in ("Shape", "Size"):
                    additions.append((here, reader))
        if len(additions) != 1 or additions[0][1].op_type != "Add":
            return None
        moved, addition = additions[0]
        other = addition.input[1 if addition.input[0] == moved else 0]
        if other == moved or other in self._constants:
            return None
        if moved == output:
            return Residual(output, other, moved, None)
        moves = self._between(output, moved)
        return Residual(output, other, moved, moves) if moves is not None else None

    def _between(self, start: str, end: str) -> onnx.ModelProto | None:
        """The nodes that compute ``end`` from ``start``; None if they need other varying tensors."""
        nodes: dict[str, onnx.NodeProto] = {}
        pending = [end]
        while pending:
            name = pending.pop()
            if name == start or name in self._constants:
                continue
            maker: Any = self._makers.get(name)
            if maker is None:
                return None
            if maker.name not in nodes:
                nodes[maker.name] = maker
                pending += reads(maker)
        model = onnx.ModelProto(ir_version=self._proto.ir_version)
        model.opset_import.extend(self._proto.opset_import)
        model.graph.name = "moves"
        model.graph.node.extend(node for node in self._proto.graph.node if node.name in nodes)
        used = {name for node in model.graph.node for name in reads(node)}
        model.graph.initializer.extend(held for name, held in self._constants.items() if name in used)
        model.graph.input.append(helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, None))
        model.graph.output.append(helper.make_empty_tensor_value_info(end))
        return model
