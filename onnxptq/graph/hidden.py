"""Preserve attributes of rare types, and types of sequences and sparse tensors, which graphsurgeon would lose."""

from __future__ import annotations

import base64

import onnx

from onnxptq.graph.nested import protos

HIDDEN = "__onnx__"
"""Prefix of a text attribute that holds another attribute, serialized."""
OVERLOAD = "__overload__"
"""Attribute under which a graphsurgeon node carries ONNX's ``overload`` field."""
_KNOWN = frozenset(
    getattr(onnx.AttributeProto, name)
    for name in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS")
)


def hide(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Encode ``proto`` for graphsurgeon without loss; return the tensor types that it cannot hold, by name."""
    types: dict[str, onnx.TypeProto] = {}
    for graph in protos(proto.graph):
        made = {name for node in graph.node for name in node.output} | {given.name for given in graph.input}
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type not in _KNOWN or not all(map(_is_text, (attribute.s, *attribute.strings))):
                    text = base64.b64encode(attribute.SerializeToString(deterministic=True))
                    name = HIDDEN + attribute.name
                    attribute.Clear()
                    attribute.name, attribute.type, attribute.s = name, onnx.AttributeProto.STRING, text
        for said in (*graph.input, *graph.output, *graph.value_info):
            kind = said.type.WhichOneof("value")
            if kind not in (None, "tensor_type"):
                types[said.name] = onnx.TypeProto.FromString(said.type.SerializeToString())
                said.ClearField("type")
        # An inner graph may repeat the types of outer tensors: graphsurgeon would read them as its own.
        kept = [said for said in graph.value_info if said.name in made and said.name not in types]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    return types


def show(node: onnx.NodeProto) -> None:
    """Restore the attributes and the overload of one node."""
    for index in range(len(node.attribute) - 1, -1, -1):
        attribute = node.attribute[index]
        if attribute.name.startswith(HIDDEN):
            attribute.ParseFromString(base64.b64decode(attribute.s))
        elif attribute.name == OVERLOAD:
            node.overload = attribute.s.decode()
            del node.attribute[index]


def show_all(proto: onnx.ModelProto, types: dict[str, onnx.TypeProto]) -> None:
    """Undo ``hide``; shapes of tensors of unknown type are dropped, since ONNX cannot express them."""
    for graph in protos(proto.graph):
        for node in graph.node:
            show(node)
        for said in (*graph.input, *graph.output):
            if said.name in types:
                said.type.CopyFrom(types[said.name])
        known = [said for said in graph.value_info if said.type.WhichOneof("value")]
        del graph.value_info[:]
        graph.value_info.extend(known)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
