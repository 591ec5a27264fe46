"""What a model's first output says: scores of classes, of yes and no, or features."""

from __future__ import annotations

from typing import Literal

from onnxptq.graph.model import Model
from onnxptq.structure.types import Role, Structure

Likelihood = Literal["gaussian", "categorical", "bernoulli"]


def likelihood(model: Model, structure: Structure) -> Likelihood:
    """How the first output is read: scores of classes along axis 1, a score of yes for each element, or numbers of
    equal weight.

    Masks of a promptable decoder are yes or no. Otherwise a model with an output layer (the default scope leaves it in
    float) is a classifier or segmenter, one without is an encoder of features.
    """
    if any(attention.token_to_image for attention in structure.attentions.values()):
        return "bernoulli"
    layers = [site for site in structure.sites if site.role is Role.WEIGHT]
    shape = model.graph.outputs[0].shape or []
    if not any(not site.default for site in layers[1:]) or len(shape) < 2:
        return "gaussian"
    return "bernoulli" if shape[1] == 1 else "categorical"
