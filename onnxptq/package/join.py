"""Several models as one graph."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import compose, helper, version_converter

from onnxptq.errors import InputError
from onnxptq.graph.model import IR_VERSION
from onnxptq.graph.reduce import reads
from onnxptq.package.about import about as words
from onnxptq.report.introduction import introduce

OPSET = 21
"""The lowest opset of a package: that of our own artifacts."""


def part(model: onnx.ModelProto, prefix: str, opset: int) -> onnx.ModelProto:
    """A model ready to be joined: all names prefixed, inputs and outputs too, standard operators at ``opset``."""
    own = standard_opset(model)
    if own < opset:
        try:
            model = version_converter.convert_version(model, opset)
        except RuntimeError as error:
            raise InputError(
                f"model of opset {own} cannot be converted to {opset} ({str(error).splitlines()[0]})"
            ) from None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    compose.add_prefix_graph(copy.graph, prefix, inplace=True)
    return copy


def standard_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators a model imports."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OPSET)


def join(
    name: str,
    parts: list[onnx.ModelProto],
    glue: list[onnx.GraphProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    links: Mapping[str, str],
    opset: int,
    about: Mapping[str, str],
) -> onnx.ModelProto:
    """Join whole models and graphs written for the package to one model.

    ``links`` maps input names of parts to tensor names, ``about`` are entries of the metadata: what the package takes
    and gives. Nodes are sorted here.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    domains = {"": opset}
    for one in parts:
        tensors += one.graph.initializer
        domains |= {o.domain: o.version for o in one.opset_import if o.domain not in ("", "ai.onnx")}
        for node in one.graph.node:
            for i, source in enumerate(node.input):
                node.input[i] = links.get(source, source)
            nodes.append(node)
        for function in one.functions:
            functions[function.domain, function.name, function.overload] = function
    for graph in glue:
        nodes += graph.node
        tensors += graph.initializer
    domains |= {"ai.onnx.contrib": 1} if any(n.domain == "ai.onnx.contrib" for n in nodes) else {}
    given = {t.name for t in tensors} | {i.name for i in inputs}
    graph = helper.make_graph(_sorted(nodes, given), name, inputs, outputs, tensors)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
        ir_version=IR_VERSION,
        functions=list(functions.values()),
        producer_name="onnxptq",
    )
    introduce(model, words(about, parts, list(domains), opset))
    onnx.checker.check_model(model)
    return model


def _sorted(nodes: list[onnx.NodeProto], given: set[str]) -> list[onnx.NodeProto]:
    """Nodes in topological order; bodies of If and Loop may read any tensor made before."""
    known, left, out = set(given) | {""}, list(nodes), []
    while left:
        later = []
        for node in left:
            if all(name in known for name in reads(node)):
                out.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(left):
            missing = next(name for node in later for name in reads(node) if name not in known)
            raise InputError(f"package: tensor {missing} is read, but made by no part")
        left = later
    return out
