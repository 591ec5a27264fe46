"""Validate a model before its graph is read: complete, acyclic, of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import onnx

from onnxptq.errors import InputError
from onnxptq.graph import schemas
from onnxptq.graph.schemas import called, subgraphs

GraphLike = onnx.GraphProto | onnx.FunctionProto
Key = tuple[str, str, str]

NODES = 1_000_000
"""Limits: nodes of a model after inlining, and kilobytes that its functions may grow to."""
KILOBYTE = 1024
DEPTH = 32
"""Maximum depth of subgraphs and of nested function calls."""


def check(proto: onnx.ModelProto, name: str) -> None:
    """Fail with one line at the first error."""
    _versions(proto, name)
    _functions(proto, name)
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        _once([value.name for value in values], what, name)
    _scope(proto.graph, (), name, 0)
    local = {(f.domain, f.name) for f in proto.functions}
    schemas.check(proto.graph.node, proto.opset_import, local, name)
    for function in proto.functions:
        schemas.check(function.node, function.opset_import, local, name)


def _versions(proto: onnx.ModelProto, name: str) -> None:
    """Check the required fields: random bytes often parse as an empty model."""
    if not proto.graph.node or not proto.graph.output:
        raise InputError(f"{name}: holds no graph; it is not an ONNX model, or it was cut off")
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise InputError(
            f"{name}: has IR version {proto.ir_version}, the installed onnx knows 1 to {onnx.IR_VERSION}: update onnx "
            f"or export the model again"
        )
    if not proto.opset_import:
        raise InputError(f"{name}: names no operator set; export the model again")
    _once(["" if o.domain == "ai.onnx" else o.domain for o in proto.opset_import], "operator set", name)
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.version < 1:
            raise InputError(f"{name}: has version {opset.version} of an operator set; export the model again")
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InputError(
                f"{name}: uses opset {opset.version}, but the installed onnx knows {newest}: update onnx or export "
                f"an older opset"
            )


def _once(names: Sequence[str], what: str, name: str) -> None:
    twice = [one for one, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{name}: has the {what} {twice[0]!r} twice; export the model again")


def _scope(graph: GraphLike, outer: tuple[set[str], ...], name: str, depth: int) -> None:
    """Check that every tensor is produced once, before the nodes that read it."""
    if depth > DEPTH:
        raise InputError(f"{name}: has more than {DEPTH} levels of subgraphs; simplify the model")
    if isinstance(graph, onnx.FunctionProto):
        known = set(graph.input)
    else:
        constants = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        _once(constants, "initializer", name)
        known = {*constants, *(value.name for value in graph.input)}
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        words = (node.op_type, node.domain, node.name, *node.input, *node.output)
        if any(isinstance(word, bytes) for word in words):
            raise InputError(f"{name}: node {index} has a name that is not UTF-8; export the model again")
        for output in node.output:
            if output and (output in makers or output in known):
                raise InputError(
                    f"{name}: {called(node)} makes {output!r}, which is there already; export the model again"
                )
            makers.setdefault(output, index)
    local = known | {output for output in makers if output}
    inside = (*outer, local)
    reads: list[list[int]] = []
    for node in graph.node:
        used = [*node.input, *(free for body in subgraphs(node) for free in _free(body))]
        for tensor in used:
            if tensor and not any(tensor in scope for scope in reversed(inside)):
                raise InputError(
                    f"{name}: {called(node)} reads {tensor!r}, which nothing makes; export the model again"
                )
        reads.append([makers[tensor] for tensor in used if tensor and tensor in makers])
        for body in subgraphs(node):
            _scope(body, inside, name, depth + 1)
    for result in graph.output:
        tensor = result if isinstance(result, str) else result.name
        if not any(tensor in scope for scope in inside):
            raise InputError(f"{name}: nothing makes the output {tensor!r}; export the model again")
    _ordered(graph, reads, name)


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    """Outer tensors that a subgraph reads."""
    made = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    made |= {t.values.name for t in graph.sparse_initializer} | {o for node in graph.node for o in node.output}
    for node in graph.node:
        yield from (tensor for tensor in node.input if tensor not in made)
        for body in subgraphs(node):
            yield from (tensor for tensor in _free(body) if tensor not in made)


def _ordered(graph: GraphLike, reads: Sequence[Sequence[int]], name: str) -> None:
    """Fail if the nodes have no topological order."""
    waits = [len(set(before)) for before in reads]
    readers: list[list[int]] = [[] for _ in reads]
    for index, before in enumerate(reads):
        for maker in set(before):
            readers[maker].append(index)
    ready, done = [index for index, count in enumerate(waits) if not count], 0
    while ready:
        done += 1
        for reader in readers[ready.pop()]:
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    if done < len(reads):
        stuck = next(index for index, count in enumerate(waits) if count)
        raise InputError(f"{name}: the graph has a cycle through {called(graph.node[stuck])}; export the model again")


def _functions(proto: onnx.ModelProto, name: str) -> None:
    """Check that functions exist once, do not recurse, and inline to a bounded number of nodes."""
    functions: dict[Key, onnx.FunctionProto] = {(f.domain, f.name, f.overload): f for f in proto.functions}
    _once([f"{f.domain}.{f.name}{':' * bool(f.overload)}{f.overload}" for f in proto.functions], "function", name)
    counted: dict[Key, int] = {}

    def count(graph: GraphLike, calls: tuple[Key, ...]) -> int:
        if len(calls) > DEPTH:
            raise InputError(f"{name}: functions call each other more than {DEPTH} levels deep; inline them")
        total = 0
        for node in graph.node:
            key = (node.domain, node.op_type, node.overload)
            if key in calls:
                raise InputError(f"{name}: the function {key[1]!r} calls itself; export the model again")
            if key in functions and key not in counted:
                counted[key] = count(functions[key], (*calls, key))
            own = 1 + node.ByteSize() // KILOBYTE if calls else 1
            total += counted.get(key, own) + sum(count(body, calls) for body in subgraphs(node))
        if total > NODES:
            raise InputError(
                f"{name}: its functions inline to more than {NODES} nodes or kilobytes; simplify the model"
            )
        return total

    for key, function in functions.items():
        if key not in counted:
            counted[key] = count(function, (key,))
        _scope(function, (), name, 0)
    count(proto.graph, ())
