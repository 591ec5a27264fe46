"""Check nodes against their op schemas: required and unknown inputs, outputs and attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import suppress

import onnx

from onnxptq.errors import InputError


def check(
    nodes: Iterable[onnx.NodeProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
    functions: Set[tuple[str, str]],
    name: str,
) -> None:
    """Fail at the first node that violates its op's schema; ``functions`` are the model's own ops."""
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in opsets}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += [inner for body in subgraphs(node) for inner in body.node]
        domain = "" if node.domain == "ai.onnx" else node.domain
        schema = None
        if (domain, node.op_type) not in functions:
            # onnxruntime may know other ops, or will report them.
            with suppress(onnx.defs.SchemaError):
                schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 0), domain)
        fault = _attributes(node, schema) or (schema is not None and _ports(node, schema))
        if fault:
            raise InputError(f"{name}: {called(node)} {fault}; export the model again")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def called(node: onnx.NodeProto) -> str:
    """A node's description for error messages."""
    return f"{node.op_type[:80]} {node.name[:80]!r}" if node.name else node.op_type[:80]


def _attributes(node: onnx.NodeProto, schema: onnx.defs.OpSchema | None) -> str:
    """The error in a node's attributes, if there is one."""
    seen: set[str] = set()
    for one in node.attribute:
        shown = repr(one.name[:80])
        if one.name in seen:
            return f"has the attribute {shown} twice"
        seen.add(one.name)
        if one.ref_attr_name:
            continue
        if schema is None:
            continue
        if one.name not in schema.attributes:
            return f"has the attribute {shown}, which the op does not know"
        wanted = str(schema.attributes[one.name].type).rpartition(".")[2]
        if onnx.AttributeProto.AttributeType.Value(wanted) != one.type:
            return f"has the attribute {shown} of another type than {wanted}"
    missing = [] if schema is None else [k for k, one in schema.attributes.items() if one.required and k not in seen]
    return f"lacks the attribute {missing[0]!r}" if missing else ""


def _ports(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    """The error in a node's number of inputs or outputs, if there is one."""
    required = onnx.defs.OpSchema.FormalParameterOption.Single
    for what, names, least, most, formal in (
        ("inputs", node.input, schema.min_input, schema.max_input, schema.inputs),
        ("outputs", node.output, schema.min_output, schema.max_output, schema.outputs),
    ):
        if not least <= len(names) <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 2**31 - 1 else f"{least} or more"
            return f"has {len(names)} {what}, the op takes {wanted}"
        for given, parameter in zip(names, formal, strict=False):
            if not given and what == "inputs" and parameter.option == required:
                return f"lacks its input {parameter.name!r}"
    return ""
