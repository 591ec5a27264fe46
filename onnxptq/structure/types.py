"""The structure of a canonical graph, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from onnxptq.display import table
from onnxptq.structure.window import Window


class Role(StrEnum):
    """The role of a tensor in the operation that reads it."""

    WEIGHT = "weight"
    LINEAR_INPUT = "linear_input"
    CONV_INPUT = "conv_input"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    SOFTMAX = "softmax"
    GELU = "gelu"
    """Input of a linear or convolution that is the output of a GELU, moved at most."""
    MATMUL_INPUT = "matmul_input"
    """Operand of a product of two activations outside attentions."""


class Part(StrEnum):
    """The part of a multi-modal model that a site belongs to."""

    VISUAL = "visual"
    TEXT = "text"
    FUSION = "fusion"
    DECODER = "decoder"


@dataclass(frozen=True)
class Site:
    """A place for a quantizer: ``tensor`` as read by node ``consumer``. Hashable; its ``key`` is unique.

    Queries and keys are the tensors of ``Attention.q`` and ``k``: their consumer, the product, may read them through a
    scalar factor or the transposition of the keys.
    """

    tensor: str
    consumer: str
    role: Role
    part: Part = Part.VISUAL
    channels: int | None = None
    """Length of the channel axis: output channels of a weight, last axis (axis 1 for convolutions) of an activation."""
    axis: int = -1
    """The channel axis."""
    default: bool = True
    """Whether the default scope quantizes it: False for first convolution and output layer."""
    partner: str = ""
    """For an attention's operands and for weights: the tensor it is multiplied by."""
    output: str = ""
    """The output of the consumer."""

    @property
    def key(self) -> str:
        """``consumer:role``, unique in a graph and stable across runs."""
        return f"{self.consumer}:{self.role}" + (f":{self.tensor}" if self.role is Role.MATMUL_INPUT else "")


@dataclass(frozen=True)
class Linear:
    """MatMul with a constant [K, N] weight, and the Add of its bias if it has one. ``name`` is the MatMul's."""

    name: str
    input: str
    weight: str
    bias: str | None
    bias_node: str | None
    output: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Conv:
    """Conv or ConvTranspose with constant weight. ``name`` is the node's."""

    name: str
    input: str
    weight: str
    bias: str | None
    output: str
    transpose: bool = False
    ranges: str = ""
    """Units that its input can have run-time ranges for: ``pixel``, ``channel``, ``sample``; empty if no op can."""
    window: Window | None = None
    """None where it is no linear on windows: transposed, in groups, or with ``auto_pad``."""


@dataclass(frozen=True)
class Source:
    """The linear that produces q, k or v of an attention, and its output channel for each (head, dim)."""

    linear: str
    channels: NDArray[np.int64]
    """[heads, dim] -> output channel of the linear."""
    exclusive: bool
    """Whether only this attention operand reads those channels.

    False for q of SAM's encoder, which relative position reads too.
    """

    def __hash__(self) -> int:
        return hash((self.linear, self.channels.tobytes()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        alike = (self.linear, self.exclusive) == (other.linear, other.exclusive)
        return alike and np.array_equal(self.channels, other.channels)


@dataclass(frozen=True)
class Attention:
    """softmax(scale * q k^T + additive terms) v, in standard ops.

    ``q`` and ``k`` are the tensors before any scalar scale and before the transposition of k: [..., N, d]; ``v``
    likewise.
    """

    name: str
    """Name of the Softmax node."""
    qk: str
    """Name of the MatMul node of the scores."""
    av: str
    """Name of the MatMul node of probabilities and values."""
    q: str
    k: str
    v: str
    probabilities: str
    output: str
    scale: float
    heads: int
    dim: int
    queries: int | None
    keys: int | None
    q_source: Source | None = None
    k_source: Source | None = None
    v_source: Source | None = None
    o_linear: str | None = None
    """The linear that alone reads the attention's output, all channels of it, if there is one."""
    o_channels: NDArray[np.int64] | None = field(default=None, compare=False)
    """[heads, dim] -> input channel of ``o_linear``."""
    additive: tuple[str, ...] = ()
    """Tensors added to the scores, in order; each broadcasts against [..., Nq, Nk]."""
    rel_h: str | None = None
    """Decomposed relative position terms [..., Nq, H] and [..., Nq, W], where the graph adds them in this form."""
    rel_w: str | None = None
    apart: str = ""
    """Why one fused op cannot compute it.

    Empty if only scale, additive terms and relative position lie between scores and softmax, with no other reader.
    """
    masked: bool = False
    """Whether an additive term comes from a mask input."""
    token_to_image: bool = False
    part: Part = Part.VISUAL

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def fusable(self) -> bool:
        """Whether one fused op can compute it."""
        return not self.apart


@dataclass(frozen=True)
class Norm:
    """LayerNormalization and the linears that read its output."""

    name: str
    input: str
    output: str
    scale: str
    bias: str | None
    readers: tuple[str, ...] = ()
    """Linears whose input channel c is the norm's channel c at every token."""
    exclusive: bool = False
    """Whether only ``readers`` read the norm's output."""
    padded: bool = False
    """Whether zero tokens are added between the norm and a reader (windows of Swin and Segment Anything)."""


@dataclass(frozen=True)
class Structure:
    """The structure that ``discover`` finds, in graph order."""

    linears: dict[str, Linear] = field(default_factory=dict)
    convs: dict[str, Conv] = field(default_factory=dict)
    attentions: dict[str, Attention] = field(default_factory=dict)
    matmuls: tuple[str, ...] = ()
    """Names of MatMul nodes of two activations outside attentions."""
    sites: tuple[Site, ...] = ()
    masks: dict[str, str] = field(default_factory=dict)
    """Mask input name -> the token input whose padding it marks ('' if unknown)."""
    norms: tuple[str, ...] = ()
    """LayerNormalization nodes."""
    norm_readers: dict[str, Norm] = field(default_factory=dict)
    """LayerNormalization nodes by name, with their readers."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Part of each Linear, Conv, Softmax and product of two activations, by node name."""
    batch_norms: tuple[str, ...] = ()
    gelus: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    """Layers and products that the default scope leaves in float, by node name, and why."""
    hidden: dict[str, int] = field(default_factory=dict)
    """Number of layers and products in bodies of If, Loop and Scan, by op; they stay in float."""

    def __repr__(self) -> str:
        return f"<Structure: {', '.join(f'{count} {what}' for what, count in self.counts().items())}>"

    def _repr_html_(self) -> str:
        roles = Counter((site.role.value, site.part.value, site.default) for site in self.sites)
        rows = [(n, role, part, "quantized" if scope else "float") for (role, part, scope), n in roles.items()]
        return table(("sites", "role", "part", "by default"), rows, repr(self)[1:-1])

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {
            "linears": len(self.linears),
            "convolutions": len(self.convs),
            "attentions": len(self.attentions),
            "sites": len(self.sites),
        }

    def is_layer(self, name: str) -> bool:
        """Whether a node is a linear or a convolution."""
        return name in self.linears or name in self.convs

    def blocks(self) -> dict[str, list[int]]:
        """For each linear that produces q, k or v: which of the three each output channel belongs to (-1: none)."""
        found: dict[str, list[int]] = {}
        for attention in self.attentions.values():
            for number, source in enumerate((attention.q_source, attention.k_source, attention.v_source)):
                if source is not None:
                    labels = found.setdefault(source.linear, [-1] * self.linears[source.linear].outputs)
                    for channel in source.channels.reshape(-1).tolist():
                        labels[channel] = number
        return found
