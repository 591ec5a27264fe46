"""Executor: runs an ONNX graph in torch to compute gradients through it.

Ops of domain ``onnxptq`` run as the function bodies that their models carry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper
from torch import Tensor

from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.learn.kernels import kernels
from onnxptq.learn.program import Hook, Program, Step, Values
from onnxptq.learn.straight import straight
from onnxptq.learn.tensors import from_array, to_array

OPSET = 21
"""The opset version that the kernels implement."""
STANDARD = ("", "ai.onnx")
Key = tuple[str, str, str]


class Executor:
    """A model ready to run in torch.

    Ops named in ``straight_through`` (``Round``, ``Clip``) pass gradients on as if they were identities. The caller
    decides whether gradients are kept, as always in torch: none are needed unless an input or a hook asks for them.
    """

    def __init__(
        self, model: Model | onnx.ModelProto, *, straight_through: Collection[str] = (), device: str = "cpu"
    ) -> None:
        proto = model.to_proto() if isinstance(model, Model) else model
        self.device = torch.device(device)
        self._compiler = _Compiler(
            {(f.domain, f.name, f.overload): f for f in proto.functions}, frozenset(straight_through), self.device
        )
        constants = {i.name: self._compiler.constant(numpy_helper.to_array(i)) for i in proto.graph.initializer}
        self._program = self._compiler.program(proto.graph.node, proto.opset_import, constants)
        self.inputs = tuple(i.name for i in proto.graph.input if i.name not in constants)
        self.outputs = tuple(o.name for o in proto.graph.output)
        self._types = {o.name: o.type.tensor_type.elem_type for o in proto.graph.output}

    def __call__(
        self,
        feeds: Mapping[str, NDArray[Any] | Tensor],
        outputs: Sequence[str] | None = None,
        *,
        hooks: Mapping[str, Hook] | None = None,
    ) -> dict[str, Tensor]:
        """Values by name, by default the outputs of the graph; only the nodes they need are run.

        ``feeds`` may replace any value by name, including constants and inner values. A hook is called with its
        value once that is computed; the rest of the graph sees the hook's result.
        """
        hooks = hooks or {}
        given = {name: x if isinstance(x, Tensor) else from_array(x) for name, x in feeds.items()}
        values: Values = {
            name: hooks[name](x.to(self.device)) if name in hooks else x.to(self.device) for name, x in given.items()
        }
        wanted = self.outputs if outputs is None else tuple(outputs)
        return dict(zip(wanted, self._program.run(values, wanted, hooks), strict=True))

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph without gradients; return arrays."""
        with torch.no_grad():
            found = self(feeds, outputs)
        return {name: to_array(value, self._types.get(name) or None) for name, value in found.items()}


class _Compiler:
    """Compiles graphs and functions to programs."""

    def __init__(
        self, functions: Mapping[Key, onnx.FunctionProto], straight_through: frozenset[str], device: torch.device
    ) -> None:
        unknown = straight_through - {"Round", "Clip"}
        if unknown:
            raise InputError(
                f"torch executor: no straight-through form of {min(unknown)!r}; there is one of Round and of Clip"
            )
        self.functions, self.straight_through, self.device = functions, straight_through, device

    def constant(self, array: NDArray[Any]) -> Tensor:
        """An array as a tensor on its device."""
        return self.placed(from_array(array))

    def placed(self, x: Tensor) -> Tensor:
        """Move a tensor to the device; short integer lists (shapes and indices) stay on the CPU."""
        return x if x.ndim < 2 and not x.is_floating_point() else x.to(self.device)

    def program(
        self,
        nodes: Iterable[onnx.NodeProto],
        opsets: Iterable[onnx.OperatorSetIdProto],
        constants: Mapping[str, Tensor],
    ) -> Program:
        """The nodes as steps; constants among them are computed at once."""
        for opset in opsets:
            if opset.domain in STANDARD and opset.version < OPSET:
                raise InputError(
                    f"torch executor: opset {opset.version} is not supported; convert the model to opset {OPSET} or "
                    f"later"
                )
        held = dict(constants)
        steps = []
        for node in nodes:
            step = self._step(node)
            if node.op_type == "Constant" and not node.domain:
                held[step.outputs[0]] = self.placed(step.call())
            else:
                steps.append(step)
        return Program(steps, held, self.device)

    def _step(self, node: onnx.NodeProto) -> Step:
        name = node.name or ",".join(node.output)
        inputs, outputs = tuple(node.input), tuple(node.output)
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return Step(name, self._function(function, node), inputs, outputs)
        kernel = kernels().get(node.op_type) if node.domain in STANDARD else None
        if kernel is None:
            spelled = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise InputError(f"torch executor: node {name!r}: op {spelled} is not supported")
        attributes = {a.name: self._attribute(a) for a in node.attribute}
        strange = sorted(set(attributes) - kernel.attributes)
        if strange:
            raise InputError(
                f"torch executor: node {name!r}: attribute {strange[0]!r} of op {node.op_type} is not supported"
            )
        if kernel.counts:
            attributes["outputs"] = len(outputs)
        call = partial(kernel.call, **attributes)
        return Step(
            name, straight(call) if node.op_type in self.straight_through else call, inputs, outputs, kernel.plain
        )

    def _attribute(self, attribute: AttributeProto) -> Any:
        held = helper.get_attribute_value(attribute)
        if isinstance(held, onnx.TensorProto):
            return self.constant(numpy_helper.to_array(held))
        if isinstance(held, bytes):
            return held.decode()
        return list(held) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else held

    def _function(self, function: onnx.FunctionProto, node: onnx.NodeProto) -> Callable[..., list[Tensor]]:
        """The function body with the node's attributes inserted."""
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        body = [_with_attributes(inner, given) for inner in function.node]
        program = self.program(body, function.opset_import, {})
        names, outputs = tuple(function.input), tuple(function.output)

        def call(*inputs: Tensor | None) -> list[Tensor]:
            values: Values = dict(zip(names, (*inputs, *[None] * (len(names) - len(inputs))), strict=True))
            return program.run(values, outputs, {})

        return call


def _with_attributes(node: onnx.NodeProto, given: Mapping[str, AttributeProto]) -> onnx.NodeProto:
    """A node of a function with attribute values in place of references to the function's attributes."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    held = onnx.NodeProto()
    held.CopyFrom(node)
    del held.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            held.attribute.append(attribute)
        elif attribute.ref_attr_name in given:
            put = held.attribute.add()
            put.CopyFrom(given[attribute.ref_attr_name])
            put.name = attribute.name
    return held
