"""The likelihood of a model's first output: class scores, yes/no scores, or features."""

from __future__ import annotations

from typing import Literal

from onnxptq.graph.model import Model
from onnxptq.structure.types import Role, Structure

Likelihood = Literal["gaussian", "categorical", "bernoulli"]


def likelihood(model: Model, structure: Structure) -> Likelihood:
    """How to read the first output: class scores along axis 1, a yes/no score per element, or equally weighted numbers.

    Masks of a promptable decoder are yes/no scores. Otherwise a model with an output layer (which the default scope
    leaves in float) is a classifier or segmenter; a model without one is an encoder of features.
    """
    if any(attention.token_to_image for attention in structure.attentions.values()):
        return "bernoulli"
    layers = [site for site in structure.sites if site.role is Role.WEIGHT]
    shape = model.graph.outputs[0].shape or []
    if not any(not site.default for site in layers[1:]) or len(shape) < 2:
        return "gaussian"
    return "bernoulli" if shape[1] == 1 else "categorical"
