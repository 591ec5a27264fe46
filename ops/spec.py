"""OpSpec: everything about an operator of our domain that is not speed.

A node's attributes decide its *variant*; each variant has its own function body, told apart by ONNX's ``overload``
field (measured: onnxruntime picks the body by overload, and a registered native kernel wins over every body). So a body
is plain text without branches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import parser

from onnxptq.ops import DOMAIN

Attributes = Mapping[str, int | float | str | Sequence[int]]
REGISTRY: dict[str, OpSpec] = {}


@dataclass(frozen=True)
class OpSpec:
    """One operator of domain ``onnxptq``."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Attribute names with their defaults; ``None`` marks a required one."""
    body: Callable[[dict[str, Any], tuple[bool, ...], int], str]
    """(all attributes, which inputs are present, rank of the first input) -> body text, standard ops only."""
    reference: Callable[..., Any]
    """NumPy meaning: (inputs in order, absent ones None, then attributes by name) -> array or tuple of arrays."""
    doc: str = ""
    ranked: bool = field(default=False)
    """Whether the body depends on the rank of the first input."""

    def __post_init__(self) -> None:
        if self.name in REGISTRY:
            raise TypeError(f"two ops are named {self.name}: {REGISTRY[self.name].reference.__module__} and {self.reference.__module__}")
        REGISTRY[self.name] = self

    def complete(self, attributes: Attributes) -> dict[str, Any]:
        """The attributes with defaults filled in; unknown or missing ones are a TypeError."""
        unknown = set(attributes) - set(self.attributes)
        missing = [name for name, default in self.attributes.items() if default is None and name not in attributes]
        if unknown or missing:
            raise TypeError(f"{self.name}: unknown attributes {sorted(unknown)}, missing {missing}")
        return {**self.attributes, **attributes}

    def overload(self, attributes: Attributes, present: Sequence[bool], rank: int = 0) -> str:
        """The variant's name: a function of what its body depends on."""
        values = [f"{k}={v}" for k, v in sorted(self.complete(attributes).items())]
        shape = "".join("1" if p else "0" for p in present) + (f".r{rank}" if self.ranked else "")
        return re.sub(r"[^A-Za-z0-9_.=,-]", "", ",".join([*values, shape]).replace(" ", ""))

    def function(self, attributes: Attributes, present: Sequence[bool], rank: int = 0, opset: int = 21) -> onnx.FunctionProto:
        """The function body of one variant, to be carried by every artifact that uses it."""
        full = self.complete(attributes)
        present = tuple(present) + (False,) * (len(self.inputs) - len(present))
        attrs = f"<{', '.join(self.attributes)}>" if self.attributes else ""
        text = (
            f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {self.name} {attrs} '
            f"({', '.join(self.inputs)}) => ({', '.join(self.outputs)}) {{ {self.body(full, present, rank)} }}"
        )
        function = parser.parse_function(text)
        function.overload = self.overload(attributes, present, rank)
        return function
