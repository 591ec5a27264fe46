"""The model with errors added: each site's quantization error, times a factor that is an input of the model."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.model import Model, value
from onnxptq.lower.edges import coder, on_edge
from onnxptq.lower.writer import Writer
from onnxptq.ops import schemes
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role, Structure

FACTORS = "onnxptq_factors"
"""The input: one factor for each site, in the order of the plan."""
ENERGIES = "onnxptq_energies"
"""The added output: the squared error of each site, before the factor."""


def with_errors(model: Model, structure: Structure, plan: Plan) -> onnx.ModelProto:
    """Every quantized tensor x becomes x + f (x^ - x). Factors of zero leave the model as it is."""
    writer = Writer(model.copy(), structure, plan)
    factors = gs.Variable(FACTORS, np.float32, [len(plan)])
    writer.model.graph.inputs.append(factors)
    energies: list[gs.Tensor] = []
    for number, (key, choice) in enumerate(plan.items()):
        site, name = plan.sites[key], f"{plan.sites[key].consumer}_{plan.sites[key].role}"
        factor = writer.variable(f"{name}_factor")
        writer.node("Gather", [factors, writer.constant(f"{name}_place", np.array(number))], [factor], name=name)
        if site.role is Role.WEIGHT:
            node = writer.nodes[site.consumer]
            weight = np.asarray(value(node.inputs[1]), np.float32)
            error = schemes()[choice.scheme].fake(weight, writer.float_params(choice)) - weight
            held = writer.constant(f"{name}_error", np.asarray(error, np.float32))
            energies.append(writer.constant(f"{name}_energy", np.square(held.values).sum(keepdims=True).reshape(1)))
            node.inputs[1] = _added(writer, node.inputs[1], held, factor, name)
        else:
            on_edge(writer, site.tensor, site.consumer, partial(_noisy, writer, choice, factor, name, energies))
    total = gs.Variable(ENERGIES, np.float32, [len(plan)])
    writer.node("Concat", energies, [total], name=ENERGIES, axis=0)
    writer.model.graph.outputs.append(total)
    return writer.finish("fp32").proto


def _noisy(
    writer: Writer, choice: Choice, factor: gs.Tensor, name: str, energies: list[gs.Tensor], tensor: gs.Tensor
) -> gs.Tensor:
    """A tensor with a part of its quantization error, whose energy joins ``energies``."""
    coded, error = coder(writer, choice, name=name)(tensor), writer.variable(f"{name}_error", tensor)
    writer.node("Sub", [coded, tensor], [error], name=f"{name}_sub")
    energy, flat = (writer.variable(f"{name}_energy_{part}") for part in ("sum", "flat"))
    writer.node("ReduceSumSquare", [error], [energy], name=f"{name}_square", keepdims=0)
    writer.node("Reshape", [energy, writer.constant(f"{name}_one", np.array([1]))], [flat], name=f"{name}_flat")
    energies.append(flat)
    return _added(writer, tensor, error, factor, name)


def _added(writer: Writer, tensor: gs.Tensor, error: gs.Tensor, factor: gs.Tensor, name: str) -> gs.Tensor:
    part, result = writer.variable(f"{name}_part"), writer.variable(f"{name}_noisy", tensor)
    part.shape = tensor.shape
    writer.node("Mul", [error, factor], [part], name=f"{name}_mul")
    writer.node("Add", [tensor, part], [result], name=f"{name}_add")
    return result
