"""Structure of a canonical graph: linears, convolutions, attentions, and the sites for quantizers."""

from __future__ import annotations

from onnxptq.structure.discover import discover
from onnxptq.structure.types import Attention, Conv, Linear, Norm, Part, Role, Site, Source, Structure
from onnxptq.structure.window import Window

__all__ = ["Attention", "Conv", "Linear", "Norm", "Part", "Role", "Site", "Source", "Structure", "Window", "discover"]
