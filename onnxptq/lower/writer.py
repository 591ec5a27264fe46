"""Writer: shared code of the lowerings. It edits its own copy of the model and records the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.hidden import OVERLOAD
from onnxptq.graph.model import Model, value
from onnxptq.ops import DOMAIN, VERSION, specs
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role, Site, Structure

BETWEEN = frozenset({"Div", "Mul", "Transpose"})
"""Ops allowed between an operand of an attention and the product: a scale, the transposition of the keys."""
HALF_MINIMUM = 32
"""Constants of fewer elements stay FP32: they save nothing, and scalars are often epsilons and masks."""


@dataclass(frozen=True)
class Lowered:
    """A quantized model, the name of each site's tensor in it, and sites that could not be expressed as planned."""

    proto: onnx.ModelProto
    notes: tuple[str, ...] = ()
    weight_bytes: int = 0
    """Bytes of all quantized weights, scales and zero-points included."""


@dataclass
class Writer:
    """A model being lowered."""

    model: Model
    structure: Structure
    plan: Plan
    notes: list[str] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)
    """Names of constants that must stay FP32: scales, tables, edges."""
    weight_bytes: int = 0
    in_floats: frozenset[str] = frozenset()
    """Ops of our domain whose bodies multiply in floats."""

    def __post_init__(self) -> None:
        self.nodes = self.model.nodes()
        self.tensors = self.model.graph.tensors()
        self._names = set(self.nodes) | set(self.tensors)

    # -- names and pieces of graph

    def fresh(self, base: str) -> str:
        """An unused name starting with ``base``."""
        name, number = base, 0
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return name

    def constant(self, base: str, values: NDArray[Any]) -> gs.Constant:
        """A new constant, never stored as half floats."""
        constant = gs.Constant(self.fresh(base), np.asarray(values, order="C"))
        self.exact.add(constant.name)
        return constant

    def initializer(self, base: str, tensor: onnx.TensorProto) -> gs.Constant:
        """A new constant of a type NumPy does not have."""
        placeholder = gs.Constant(self.fresh(base), np.zeros(1, np.int8))
        tensor.name = placeholder.name
        self.model.tensors[placeholder.name] = tensor
        self.exact.add(placeholder.name)
        return placeholder

    def variable(self, base: str, like: gs.Tensor | None = None, dtype: Any = np.float32) -> gs.Variable:
        """A new intermediate tensor with the shape of another."""
        return gs.Variable(self.fresh(base), dtype, like.shape if like is not None else None)

    def node(
        self, op: str, inputs: Sequence[gs.Tensor | None], outputs: Sequence[gs.Tensor], *, name: str, **attributes: Any
    ) -> gs.Node:
        """A new node of the standard domain."""
        given = [tensor if tensor is not None else gs.Variable.empty() for tensor in inputs]
        made = gs.Node(op, self.fresh(name), attributes, given, list(outputs))
        self.model.graph.nodes.append(made)
        return made

    def call(
        self, op: str, inputs: Sequence[gs.Tensor | None], outputs: Sequence[gs.Tensor], *, name: str, **attributes: Any
    ) -> gs.Node:
        """A new node of our domain; its function body joins the model."""
        spec = specs()[op]
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        rank = len(given[0].shape) if given[0] is not None and given[0].shape is not None else 0
        present, floats = [tensor is not None for tensor in given], op in self.in_floats
        function = spec.function(attributes, present, rank, self.model.opset, differentiable=floats)
        self.model.functions[(DOMAIN, op, function.overload)] = function
        named = [tensor if tensor is not None else gs.Variable.empty() for tensor in given]
        made = gs.Node(
            op,
            self.fresh(name),
            {**spec.complete(attributes), OVERLOAD: function.overload},
            named,
            list(outputs),
            domain=DOMAIN,
        )
        self.model.graph.nodes.append(made)
        return made

    # -- the plan

    @staticmethod
    def take_over(output: gs.Tensor) -> None:
        """Detach a tensor from its producer, so that a new node can produce it."""
        for maker in list(output.inputs):
            maker.outputs = [
                gs.Variable(f"{t.name}__replaced", t.dtype, t.shape) if t is output else t for t in maker.outputs
            ]

    def choice(self, consumer: str, *roles: Role) -> tuple[Site, Choice] | None:
        """The choice for the site where ``consumer`` reads a tensor in one of these roles."""
        for role in roles:
            key = f"{consumer}:{role}"
            if key in self.plan:
                return self.plan.sites[key], self.plan[key]
        return None

    def matmul_choice(self, consumer: str, tensor: str) -> tuple[Site, Choice] | None:
        """The choice for one operand of a product of two activations."""
        key = f"{consumer}:{Role.MATMUL_INPUT}:{tensor}"
        return (self.plan.sites[key], self.plan[key]) if key in self.plan else None

    def weight(self, name: str) -> NDArray[np.float32]:
        """The float values of a constant."""
        values = value(self.tensors[name])
        assert values is not None, name
        return np.asarray(values, np.float32)

    # -- edges

    def reads(self, tensor: gs.Tensor, consumer: str) -> list[tuple[gs.Node, int]]:
        """The readers of a tensor on the way to ``consumer``: the consumer itself, or a moving op before it."""
        target = self.nodes[consumer]
        direct = [(target, i) for i, read in enumerate(target.inputs) if read is tensor]
        if direct:
            return direct
        for operand in target.inputs:
            while operand.inputs:
                maker = operand.inputs[0]
                if maker.op not in BETWEEN:
                    break
                found = [(maker, i) for i, read in enumerate(maker.inputs) if read is tensor]
                if found:
                    return found
                operand = next((t for t in maker.inputs if not isinstance(t, gs.Constant)), None)
                if operand is None:
                    break
        return []

    def float_params(self, choice: Choice) -> UniformParams:
        """The static uniform parameters of a choice; an AssertionError (our bug) if calibration was skipped."""
        assert isinstance(choice.params, UniformParams), choice
        return choice.params

    def finish(self, constants: str) -> Lowered:
        """Clean up, store the remaining constants as half floats, and export."""
        self.model.graph.cleanup(remove_unused_graph_inputs=False).toposort()
        if constants == "fp16":
            self._store_half()
        used = {(n.domain, n.op, n.attrs.get(OVERLOAD, "")) for n in self.model.graph.nodes}
        self.model.functions = {key: f for key, f in self.model.functions.items() if key in used or key[0] != DOMAIN}
        domains = {d.domain: d.version for d in self.model.graph.import_domains or ()}
        if any(domain == DOMAIN for domain, _, _ in used):
            domains[DOMAIN] = VERSION
        domains[""] = self.model.opset
        self.model.graph.import_domains = [onnx.helper.make_opsetid(d, v) for d, v in sorted(domains.items())]
        return Lowered(self.model.to_proto(), tuple(dict.fromkeys(self.notes)), self.weight_bytes)

    def _store_half(self) -> None:
        for constant in [c for c in self.model.constants() if c.name not in self.exact and c.dtype == np.float32]:
            values = np.asarray(constant.values)
            if values.size < HALF_MINIMUM or not fits_half(values):
                continue
            half = gs.Constant(self.fresh(f"{constant.name}_fp16"), values.astype(np.float16))
            wide = gs.Variable(self.fresh(f"{constant.name}_fp32"), np.float32, values.shape)
            for reader in list(constant.outputs):
                reader.inputs = [wide if tensor is constant else tensor for tensor in reader.inputs]
            self.node("Cast", [half], [wide], name=wide.name, to=int(onnx.TensorProto.FLOAT))
        self.model.graph.cleanup(remove_unused_graph_inputs=False).toposort()


def fits_half(values: NDArray[Any]) -> bool:
    """Whether half floats hold these values to their usual precision, relative to the largest."""
    if not np.isfinite(values).all():
        return False
    largest = float(np.abs(values).max(initial=0.0))
    if largest > 65504.0:
        return False
    error = float(np.abs(values.astype(np.float16).astype(np.float32) - values).max(initial=0.0))
    return error <= 2**-10 * largest
