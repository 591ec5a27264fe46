"""Files with several bodies for one op are refused where bodies are found by name alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxptq.lower.overloads import REFUSED, require_overloads
from onnxptq.ops import DOMAIN, specs


def model(*bits: int) -> onnx.ModelProto:
    """A chain of RowRange nodes' scales, one node for each width."""
    nodes, functions = [], {}
    for index, width in enumerate(bits):
        node, function = specs()["RowRange"].call([f"t{index}"], [f"t{index + 1}", f"z{index}"], rank=2, bits=width)
        nodes.append(node)
        functions[function.overload] = function
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("t0", 1, [3, 4])],
        [onnx.helper.make_tensor_value_info(f"t{len(bits)}", 1, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=list(functions.values()), ir_version=10)


def by_name(proto: onnx.ModelProto, keep: int) -> onnx.ModelProto:
    """The model as a runtime without overloads reads it: one body a name, the first or the last."""
    found = onnx.ModelProto.FromString(proto.SerializeToString())
    bodies = list(found.functions)[:: -1 if keep else 1]
    del found.functions[:]
    found.functions.extend({function.name: function for function in bodies}.values())
    for entry in (*found.functions, *found.graph.node):
        entry.ClearField("overload")
    return found


def run(proto: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(None, {"t0": np.arange(12, dtype=np.float32).reshape(3, 4)})[0])


@pytest.mark.parametrize("keep", [0, 1])
def test_a_runtime_that_mixes_bodies_up_refuses_the_file(keep: int) -> None:
    proto = model(8, 4)
    want = run(proto)
    assert not np.array_equal(run(by_name(proto, keep)), want)
    require_overloads(proto)
    np.testing.assert_array_equal(run(proto), want)
    with pytest.raises(Exception, match=REFUSED):
        run(by_name(proto, keep))


def test_one_body_an_op_is_right_everywhere() -> None:
    proto = model(4, 4)
    before = proto.SerializeToString()
    require_overloads(proto)
    assert proto.SerializeToString() == before
