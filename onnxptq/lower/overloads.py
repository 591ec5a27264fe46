"""Nodes that make a runtime refuse a file whose function bodies it would mix up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxptq.ops import DOMAIN

PROBE = "Overload"
"""Op whose variants give vectors of different lengths."""
REFUSED = "this_file_requires_onnxruntime_1.27_or_later"
"""Name of the nodes that fail: onnxruntime's message begins with it."""
LENGTHS = (2, 3)


def require_overloads(proto: onnx.ModelProto) -> None:
    """Add nodes whose shapes agree only where every call runs the body of its own overload.

    Onnxruntime before 1.27 finds bodies by name alone and would run a wrong one without a word. A file with one body
    for each op is right there too and stays as it is. No output depends on these nodes; runtimes drop them.
    """
    bodies = Counter(function.name for function in proto.functions if function.domain == DOMAIN)
    if max(bodies.values(), default=1) < 2:
        return
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    probes, products = [], []
    for length in LENGTHS:
        made, other = f"{REFUSED}_{length}", f"{REFUSED}_{length}_zeros"
        constant = helper.make_node("Constant", [], ["y"], value_floats=[0.0] * length)
        function = helper.make_function(DOMAIN, PROBE, [], ["y"], [constant], [helper.make_opsetid("", opset)])
        function.overload = str(length)
        proto.functions.append(function)
        probes.append(helper.make_node(PROBE, [], [made], name=made, domain=DOMAIN, overload=str(length)))
        zeros = numpy_helper.from_array(np.zeros((length, 1), np.float32), other)
        proto.graph.initializer.append(zeros)
        products.append(helper.make_node("MatMul", [made, other], [f"{made}_product"], name=f"{REFUSED}__{length}"))
    nodes = [*probes, *products, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
