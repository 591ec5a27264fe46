"""A model from a path, bytes or a ModelProto, whatever its size; anything else is one helpful line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxptq.errors import InputError
from onnxptq.graph.data import inlined, is_heavy, take
from onnxptq.graph.model import Model
from onnxptq.graph.tidy import tensors, tidy

Source = str | Path | bytes | onnx.ModelProto
ELSEWHERE = "elsewhere"
"""Marks a tensor whose data is not in the message."""


def load(source: Source, *, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """The model, its weights in memory once (those in external files are mapped, not read). ``shapes`` fixes input
    shapes."""
    proto, folder, name = _parse(source)
    _sound(proto, name)
    notes = tidy(proto, name)
    for tensor in tensors(proto):
        if uses_external_data(tensor):
            tensor.CopyFrom(inlined(tensor, folder, name))
    arrays = {t.name: take(t, folder, name) for t in proto.graph.initializer if is_heavy(t)}
    bare = onnx.ModelProto()
    for message in ("ir_version", "producer_name", "opset_import", "metadata_props", "functions"):
        _move(proto, bare, message)
    for message in ("node", "name", "input", "output", "value_info", "doc_string"):
        _move(proto.graph, bare.graph, message)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            bare.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=ELSEWHERE
            )
        else:
            bare.graph.initializer.append(inlined(tensor, folder, name))
    del proto
    try:
        model = Model.from_proto(bare)
    except Exception as error:
        raise InputError(f"{name}: the graph cannot be read: {' '.join(str(error).split())[:160]}") from error
    model.notes += notes
    for tensor in (*model.constants(), *model.inner_constants()):
        if isinstance(tensor._values, LazyValues) and tensor._values.tensor.doc_string == ELSEWHERE:
            tensor.values = arrays[tensor.name]
    initialised = {t.name for t in model.constants()}
    model.graph.inputs = [t for t in model.graph.inputs if t.name not in initialised]
    _connected(model, name)
    _fix_shapes(model, shapes or {}, name)
    return model


def _connected(model: Model, name: str) -> None:
    """Every tensor read is made somewhere, and the nodes can be put in order."""
    given = {id(t) for t in model.graph.inputs}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name and not tensor.inputs and not isinstance(tensor, gs.Constant) and id(tensor) not in given:
                raise InputError(
                    f"{name}: {node.op} {node.name!r} reads {tensor.name!r}, which nothing makes; export the model "
                    f"again"
                )
    try:
        model.graph.toposort()
    except Exception as error:
        raise InputError(f"{name}: the graph has a cycle; export the model again") from error


def _parse(source: Source) -> tuple[onnx.ModelProto, Path | None, str]:
    if isinstance(source, onnx.ModelProto):
        own = onnx.ModelProto()
        own.CopyFrom(source)  # tensors give up their bytes while they are read
        return own, None, "model"
    if isinstance(source, bytes):
        return _decode(source, "model"), None, "model"
    path = Path(source)
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"give the file, e.g. {path / inside[0]}" if inside else "give an .onnx file"
        raise InputError(f"{path}: is a folder; {hint}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.onnx")] if path.parent.is_dir() else [], 1
        )
        raise InputError(f"{path}: no such file" + (f"; did you mean {near[0]}?" if near else "")) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _decode(data, str(path)), path.parent, str(path)


def _decode(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise InputError(f"{name}: is empty; export the model again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        kind = (
            "a text file, not an ONNX model"
            if _is_text(data)
            else "not an ONNX model, or cut off; export or download it again"
        )
        raise InputError(f"{name}: {kind}") from None
    return proto


def _is_text(data: bytes) -> bool:
    head = data[:4096]
    return b"\0" not in head and sum(b < 9 or 13 < b < 32 for b in head) == 0


def _sound(proto: onnx.ModelProto, name: str) -> None:
    """What every model has; random bytes often parse as an empty one."""
    if not proto.graph.node or not proto.graph.output:
        raise InputError(f"{name}: holds no graph; it is not an ONNX model, or it was cut off")
    if not proto.opset_import:
        raise InputError(f"{name}: names no operator set; export the model again")
    for opset in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InputError(
                f"{name}: uses opset {opset.version}, but the installed onnx knows {newest}: update onnx or export "
                f"an older opset"
            )


def _move(old: Any, new: Any, field: str) -> None:
    value = getattr(old, field)
    if hasattr(value, "extend"):
        getattr(new, field).extend(value)
    else:
        setattr(new, field, value)


def _fix_shapes(model: Model, shapes: Mapping[str, Sequence[int]], name: str) -> None:
    inputs = {t.name: t for t in model.graph.inputs}
    for key, wanted in shapes.items():
        if key not in inputs:
            near = difflib.get_close_matches(key, list(inputs), 1)
            raise InputError(
                f"--shape {key}: {name} has no such input"
                + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(inputs)}")
            )
        tensor: gs.Tensor = inputs[key]
        given = [int(d) for d in wanted]
        declared = list(tensor.shape) if tensor.shape is not None else [None] * len(given)
        text = ",".join(str(d) if d is not None else "?" for d in declared)
        if len(given) != len(declared) or any(
            isinstance(d, int) and d != g for d, g in zip(declared, given, strict=False)
        ):
            raise InputError(f"--shape {key}={','.join(map(str, given))}: does not fit the input's shape {text}")
        if any(d < 1 for d in given):
            raise InputError(f"--shape {key}={','.join(map(str, given))}: sizes must be at least 1")
        symbols = {d: g for d, g in zip(declared, given, strict=True) if isinstance(d, str)}
        for other in model.graph.inputs:
            if other.shape is not None:
                other.shape = [symbols.get(d, d) if isinstance(d, str) else d for d in other.shape]
        tensor.shape = given
    if shapes:
        # What the exporter declared was said of other sizes.
        for tensor in [t for node in model.graph.nodes for t in node.outputs]:
            tensor.shape = None
