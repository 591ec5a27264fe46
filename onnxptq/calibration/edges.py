"""A model with every quantized activation on an edge of its own, so that it can be learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Edge:
    """One quantized activation: ``source`` is the float tensor, ``coded`` its quantized values."""

    source: str
    coded: str


@dataclass(frozen=True)
class Edged:
    """The model and its edges by site key."""

    proto: onnx.ModelProto
    edges: Mapping[str, Edge]
