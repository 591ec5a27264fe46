"""Seeded mutations of a ModelProto: each kind is one function that changes one part of the model in one odd way."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from tests.fuzz.seeds import NAMES, seed

Random = random.Random
Kind = Callable[[onnx.ModelProto, Random], bytes | None]
KINDS: dict[str, Kind] = {}
"""Mutations by name; one may answer with bytes that are no message any more."""

INTEGERS = (0, 1, -1, 2, 3, 7, 255, 2**20, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
WORDS = ("", "x", "y", "w", "nowhere", "a" * 10_000, "\n\t\x1b[31m", "ä/../../etc", "%s%n")
OPS = ("Add", "MatMul", "Relu", "Softmax", "Conv", "Reshape", "Transpose", "Gather", "Concat", "Split", "Slice")
OPS += ("LayerNormalization", "Identity", "Shape", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Cast", "If")
OPS += ("Loop", "Scan", "Where", "Einsum", "Gemm", "Resize", "TopK", "NonZero", "SequenceConstruct", "Erf", "Gelu")
TYPES = tuple(sorted(set(TensorProto.DataType.values())))


def mutant(number: int) -> tuple[str, onnx.ModelProto, bytes]:
    """The ``number``-th case: what was done to which seed, the seed, and the mutated model."""
    rng = Random(number)
    name = NAMES[number % len(NAMES)]
    original, proto = seed(name), seed(name)
    done: list[str] = [name]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # The first one is taken in turn, so that every kind meets every seed.
        kind = list(KINDS)[number // len(NAMES) % len(KINDS)] if len(done) == 1 else rng.choice(list(KINDS))
        done.append(kind)
        try:
            raw = KINDS[kind](proto, rng)
        except Exception:
            continue  # an earlier mutation took away what this one changes
        if raw is not None:
            return " ".join(done), original, raw
    return " ".join(done), original, proto.SerializeToString()


def family(name: str, count: int, function: Callable[[onnx.ModelProto, Random, int], bytes | None]) -> None:
    """Register one mutation for each of ``count`` choices."""
    for index in range(count):
        KINDS[f"{name}_{index}"] = lambda proto, rng, index=index: function(proto, rng, index)  # type: ignore[misc]


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every node, those of subgraphs and functions too."""
    found: list[onnx.NodeProto] = []
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += [inner for attribute in node.attribute for inner in attribute.g.node]
    return found


def _node(proto: onnx.ModelProto, rng: Random) -> onnx.NodeProto:
    return rng.choice(_nodes(proto))


def _tensor(proto: onnx.ModelProto, rng: Random) -> TensorProto:
    inner = [a.t for node in _nodes(proto) for a in node.attribute if a.type == AttributeProto.TENSOR]
    return rng.choice([*proto.graph.initializer, *inner])


def _attribute(proto: onnx.ModelProto, rng: Random) -> AttributeProto:
    return rng.choice([attribute for node in _nodes(proto) for attribute in node.attribute])


def _port(proto: onnx.ModelProto, rng: Random) -> onnx.ValueInfoProto:
    return rng.choice([*proto.graph.input, *proto.graph.output])


def _names(proto: onnx.ModelProto) -> list[str]:
    made = [output for node in _nodes(proto) for output in node.output]
    return [*made, *(t.name for t in proto.graph.initializer), *(v.name for v in proto.graph.input)]


def _change_node(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    nodes = proto.graph.node
    index = rng.randrange(len(nodes))
    node = _node(proto, rng)
    order = list(range(len(nodes)))
    if way == 0:
        del nodes[index]
    elif way == 1:
        nodes.append(nodes[index])
    elif way == 2:
        nodes.append(nodes[index])
        nodes[-1].output[:] = [f"{o}_twin" for o in nodes[-1].output]
    elif way in (3, 4):
        rng.shuffle(order) if way == 3 else order.reverse()
        copies = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
        del nodes[:]
        nodes.extend(copies)
    elif way in (5, 6):
        node.op_type = rng.choice(OPS if way == 5 else WORDS)
    elif way == 7:
        node.domain = rng.choice(("com.microsoft", "ai.onnx", "ai.onnx.ml", "local", "com.example", "onnxptq"))
    elif way in (8, 9):
        node.name = "" if way == 8 else rng.choice(WORDS)
    elif way == 10:
        for one in nodes:
            one.name = "same"
    else:
        node.overload = rng.choice(("", "other"))


def _change_reads(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.input])
    index = rng.randrange(len(node.input))
    if way == 0:
        del node.input[-1]
    elif way == 1:
        del node.input[index]
    elif way == 2:
        node.input[index] = ""
    elif way == 3:
        node.input.append("")
    elif way == 4:
        node.input.append(rng.choice(_names(proto)))
    elif way == 5:
        node.input[index] = rng.choice(_names(proto))
    elif way == 6:
        node.input[index] = rng.choice(WORDS)
    elif way == 7:
        node.input[index] = node.output[0]
    elif way == 8:
        node.input[index] = proto.graph.output[0].name
    elif way == 9:
        node.input.reverse()
    else:
        del node.input[:]


def _change_makes(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.output])
    if way == 0:
        del node.output[-1]
    elif way == 1:
        node.output[0] = ""
    elif way == 2:
        node.output[0] = rng.choice(_names(proto))
    elif way == 3:
        node.output.append("")
    elif way == 4:
        node.output.append("another")
    elif way == 5:
        node.output.append(node.output[0])
    else:
        node.output[0] = rng.choice(WORDS)


def _change_attribute(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.attribute])
    index = rng.randrange(len(node.attribute))
    one = node.attribute[index]
    if way == 0:
        del node.attribute[index]
    elif way == 1:
        node.attribute.append(one)
    elif way == 2:
        one.name = rng.choice(("axis", "axes", "perm", "epsilon", "kernel_shape", "to", "value", "unknown", ""))
    elif way == 3:
        one.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif way == 4:
        one.ref_attr_name = "given"
    elif way == 5:
        node.attribute.append(helper.make_attribute(rng.choice(("axis", "to", "alpha", "group")), rng.choice(INTEGERS)))
    elif way == 6:
        node.attribute.append(helper.make_attribute("epsilon", rng.choice(FLOATS)))
    elif way == 7:
        node.attribute.append(helper.make_attribute("mode", rng.choice(WORDS)))
    elif way == 8:
        node.attribute.append(AttributeProto(name="text", type=AttributeProto.STRING, s=b"\xff\xfe"))
    elif way == 9:
        node.attribute.append(AttributeProto(name="kind", type=AttributeProto.TYPE_PROTO))
    else:
        one.doc_string = "d" * 100_000


def _change_numbers(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    ones = [a for n in _nodes(proto) for a in n.attribute if a.type in (AttributeProto.INT, AttributeProto.INTS)]
    one = rng.choice(ones)
    if one.type == AttributeProto.INT:
        one.i = rng.choice(INTEGERS)
    elif way == 0:
        one.ints[rng.randrange(len(one.ints))] = rng.choice(INTEGERS)
    elif way == 1:
        del one.ints[:]
    elif way == 2:
        one.ints.append(rng.choice(INTEGERS))
    elif way == 3:
        del one.ints[-1]
    else:
        one.ints[:] = rng.sample(list(one.ints), len(one.ints))


def _change_port(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    one = _port(proto, rng)
    kind = one.type
    dims = kind.tensor_type.shape.dim
    side = rng.choice((proto.graph.input, proto.graph.output))
    if way == 0:
        del side[rng.randrange(len(side))]
    elif way == 1:
        side.append(rng.choice(list(side)))
    elif way == 2:
        kind.tensor_type.elem_type = rng.choice(TYPES)
    elif way == 3:
        kind.Clear()
    elif way == 4:
        kind.tensor_type.ClearField("shape")
    elif way == 5:
        kind.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    elif way == 6:
        kind.CopyFrom(helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    elif way == 7:
        dims[rng.randrange(len(dims))].dim_value = rng.choice(INTEGERS)
    elif way == 8:
        dims[rng.randrange(len(dims))].dim_param = rng.choice(("B", "T", "", "B*T", "-1", *WORDS))
    elif way == 9:
        dims[rng.randrange(len(dims))].Clear()
    elif way == 10:
        dims.add(dim_value=1)
    elif way == 11:
        del dims[-1]
    elif way == 12:
        one.name = rng.choice((*WORDS, *_names(proto)))
    elif way == 13:
        side.append(helper.make_tensor_value_info("unused", rng.choice(TYPES[1:]), [1]))
    else:
        side.append(helper.make_tensor_value_info(rng.choice(_names(proto)), TensorProto.FLOAT, None))


def _change_tensor(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    one = _tensor(proto, rng)
    if way == 0:
        proto.graph.initializer.remove(rng.choice(list(proto.graph.initializer)))
    elif way == 1:
        proto.graph.initializer.append(one)
        proto.graph.initializer[-1].raw_data = bytes(len(one.raw_data))
    elif way == 2:
        one.name = rng.choice((*WORDS, *_names(proto)))
    elif way == 3:
        one.data_type = rng.choice(TYPES)
    elif way == 4:
        one.dims[rng.randrange(len(one.dims))] = rng.choice(INTEGERS)
    elif way == 5:
        one.dims[:] = [*one.dims][::-1]
    elif way == 6:
        one.dims[:] = [int(np.prod(one.dims))]
    elif way == 7:
        one.dims.append(1)
    elif way == 8:
        one.raw_data = one.raw_data[: rng.randrange(len(one.raw_data))]
    elif way == 9:
        one.raw_data += bytes(rng.randrange(1, 9))
    elif way == 10:
        one.ClearField("raw_data")
    elif way == 11:
        one.float_data.extend([1.0] * rng.randrange(1, 50))
    elif way == 12:
        one.data_type = rng.choice((TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.INT4, TensorProto.BFLOAT16))
    elif way == 13:
        one.segment.begin, one.segment.end = 0, rng.choice(INTEGERS)
    else:
        one.data_location = rng.choice((0, 1))


def _change_values(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    one = _tensor(proto, rng)
    array = onnx.numpy_helper.to_array(one).copy()
    if array.dtype.kind == "f":
        values = (0.0, 1e-45, 1.0, 1 + 1e-7, float("nan"), float("inf"), 3.4e38, -1e30)
        if way % 2:
            array[...] = values[way]
        else:
            array.reshape(-1)[rng.randrange(array.size)] = values[way]
    else:
        chosen = rng.choice(INTEGERS)
        info = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        array.reshape(-1)[rng.randrange(array.size)] = min(max(chosen, info.min), info.max) if info else chosen % 2
    one.CopyFrom(onnx.numpy_helper.from_array(array, one.name))


def _change_external(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    one = _tensor(proto, rng)
    places = ("/etc/passwd", "../w.data", "missing.data", "", ".", "/dev/zero", "w\0.data", "a" * 5000, "m.onnx")
    one.data_location = TensorProto.EXTERNAL
    one.external_data.add(key="location", value=places[way] if way < len(places) else "m.onnx")
    if way >= len(places):
        one.external_data.add(key=rng.choice(("offset", "length")), value=rng.choice(("-1", "x", "1e9", str(2**62))))


def _change_versions(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    if way == 0:
        del proto.opset_import[:]
    elif way == 1:
        proto.opset_import.append(proto.opset_import[0])
    elif way == 2:
        proto.opset_import[0].version = rng.choice((*INTEGERS, 1, 5, 7, 9, 11, 12, 13, 14, 18, 22, 24))
    elif way == 3:
        proto.opset_import[0].domain = rng.choice(("ai.onnx", "com.microsoft", "local", "x" * 1000))
    elif way == 4:
        proto.opset_import.append(helper.make_opsetid(rng.choice(WORDS), rng.choice(INTEGERS)))
    elif way == 5:
        proto.ir_version = rng.choice((0, 1, 2, 3, 4, 7, 9, 13, 14, 99, 2**62))
    elif way == 6:
        proto.metadata_props.add(key=rng.choice(WORDS), value=rng.choice(WORDS))
    elif way == 7:
        proto.graph.name = rng.choice(WORDS)
    elif way == 8:
        proto.graph.doc_string = "d" * 1_000_000
    elif way == 9:
        proto.producer_name = rng.choice(WORDS)
    else:
        proto.training_info.add()


def _change_infos(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    made = rng.choice([output for node in proto.graph.node for output in node.output])
    dims = [rng.choice((1, 2, 8, -1, 2**40)) for _ in range(rng.randrange(5))]
    elements = TensorProto.FLOAT if way else rng.choice(TYPES[1:])
    info = helper.make_tensor_value_info(made, elements, dims if way < 2 else ["B"] * len(dims))
    proto.graph.value_info.extend([info] * (2 if way == 3 else 1))


def _change_function(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    one = rng.choice(list(proto.functions))
    if way == 0:
        proto.functions.remove(one)
    elif way == 1:
        proto.functions.append(one)
    elif way == 2:
        one.name = rng.choice(("inner", "outer", "MatMul", *WORDS))
    elif way == 3:
        del one.input[-1]
    elif way == 4:
        one.output[0] = rng.choice(("nowhere", "a", "m"))
    elif way == 5:
        one.node[0].op_type, one.node[0].domain = one.name, one.domain
    elif way == 6:
        del one.opset_import[:]
    elif way == 7:
        one.attribute.append(rng.choice(("alpha", "axis")))
    elif way == 8:
        one.domain = rng.choice(("", "com.microsoft", "other"))
    else:
        one.input.append(rng.choice(("a", "extra")))


def _wrap(proto: onnx.ModelProto, rng: Random, way: int) -> None:
    """Put the last node into a branch, a loop or a scan, right or wrong."""
    node = proto.graph.node.pop()
    body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info(o, 1, None) for o in node.output])
    condition = onnx.numpy_helper.from_array(np.array(way % 2 == 0), "condition")
    if way < 4:
        other = onnx.GraphProto.FromString(body.SerializeToString())
        if way == 3:
            del other.output[:]
        branches = {"then_branch": body, "else_branch": other}
        wrapped = helper.make_node("If", ["condition"], list(node.output), **branches)
    else:
        names = ("i", "go") if way < 6 else ("x", "w")
        body.input.extend(helper.make_tensor_value_info(n, t, []) for n, t in zip(names, (7, 9), strict=True))
        body.node.append(helper.make_node("Identity", [names[1]], ["on"]))
        outputs = [helper.make_tensor_value_info("on", 9, []), *body.output]
        del body.output[:]
        body.output.extend(outputs)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(rng.choice((0, 1, 2))), "trips"))
        wrapped = helper.make_node("Loop", ["trips", "condition"], list(node.output), body=body)
    proto.graph.initializer.append(condition)
    proto.graph.node.append(wrapped)


def _change_bytes(proto: onnx.ModelProto, rng: Random, way: int) -> bytes:
    data = bytearray(proto.SerializeToString())
    at = rng.randrange(len(data))
    if way == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif way == 3:
        data[at : at + 4] = b"\xff" * 4
    else:
        data += data[at:]
    return bytes(data)


family("node", 12, _change_node)
family("reads", 11, _change_reads)
family("makes", 7, _change_makes)
family("attribute", 11, _change_attribute)
family("numbers", 5, _change_numbers)
family("port", 15, _change_port)
family("tensor", 15, _change_tensor)
family("values", 8, _change_values)
family("external", 11, _change_external)
family("versions", 11, _change_versions)
family("infos", 4, _change_infos)
family("function", 10, _change_function)
family("wrap", 8, _wrap)
family("bytes", 5, _change_bytes)
