"""OpSpec: the definition of an operator of our domain, without its native kernel.

A node's attributes and inputs decide its *variant*; each variant has its own function body, identified by ONNX's
``overload`` field (measured: onnxruntime selects the body by overload, and a registered native kernel takes precedence
over every body). So a body is plain text without branches, and the overload is a digest of that text: equal bodies are
stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, parser

from onnxptq.ops import DOMAIN
from onnxptq.ops.body import Body

Attributes = Mapping[str, int | float | str | Sequence[int]]
REGISTRY: dict[str, OpSpec] = {}


@dataclass(frozen=True)
class OpSpec:
    """One operator of domain ``onnxptq``."""

    name: str
    inputs: tuple[str, ...]
    """Names; a trailing ``?`` marks an optional input."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Attribute names with their defaults; ``None`` marks a required one."""
    body: Callable[[Body, dict[str, Any], Mapping[str, str], int], None]
    """Writes the body: (body, all attributes, names of the inputs that are present, rank of the first input)."""
    reference: Callable[..., Any]
    """NumPy reference: (inputs in order, absent ones None, then attributes by name) -> array or tuple of arrays."""
    doc: str = ""
    types: tuple[str, ...] = ()
    """Element types of the inputs, in words."""
    results: tuple[str, ...] = ("float",)
    """Element types of the outputs, in words."""

    def __post_init__(self) -> None:
        if self.name in REGISTRY:
            raise TypeError(
                f"two ops are named {self.name}: {REGISTRY[self.name].reference.__module__} and "
                f"{self.reference.__module__}"
            )
        if len(self.types) != len(self.inputs) or len(self.results) != len(self.outputs):
            raise TypeError(f"{self.name}: one type for each of the inputs {self.inputs} and outputs {self.outputs}")
        REGISTRY[self.name] = self

    def complete(self, attributes: Attributes) -> dict[str, Any]:
        """The attributes with defaults filled in; unknown or missing ones are a TypeError."""
        unknown = set(attributes) - set(self.attributes)
        missing = [name for name, default in self.attributes.items() if default is None and name not in attributes]
        if unknown or missing:
            raise TypeError(f"{self.name}: unknown attributes {sorted(unknown)}, missing {missing}")
        return {**self.attributes, **attributes}

    def text(
        self, attributes: Attributes, present: Sequence[bool], rank: int = 0, *, differentiable: bool = False
    ) -> str:
        """The body of one variant in ONNX's text syntax; ``differentiable`` ones compute in floats."""
        given = {
            name.rstrip("?"): name.rstrip("?")
            for name, there in zip(self.inputs, (*present, *[False] * len(self.inputs)), strict=False)
            if there
        }
        absent = [name for name in self.inputs if not name.endswith("?") and name not in given]
        if absent:
            raise TypeError(f"{self.name}: inputs {absent} are missing")
        body = Body(differentiable=differentiable)
        self.body(body, self.complete(attributes), given, rank)
        return str(body)

    def overload(self, attributes: Attributes, present: Sequence[bool], rank: int = 0) -> str:
        """The variant's name."""
        return hashlib.sha256(self.text(attributes, present, rank).encode()).hexdigest()[:12]

    def function(
        self,
        attributes: Attributes,
        present: Sequence[bool],
        rank: int = 0,
        opset: int = 21,
        *,
        differentiable: bool = False,
    ) -> onnx.FunctionProto:
        """The function body of one variant; every artifact that uses the variant carries it."""
        text = self.text(attributes, present, rank, differentiable=differentiable)
        inputs = ", ".join(name.rstrip("?") for name in self.inputs)
        function = parser.parse_function(
            f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {self.name} <{", ".join(self.attributes)}> '
            f"({inputs}) => ({', '.join(self.outputs)}) {{ {text} }}"
        )
        function.overload = hashlib.sha256(text.encode()).hexdigest()[:12]
        return function

    def call(
        self,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        *,
        name: str = "",
        rank: int = 0,
        opset: int = 21,
        differentiable: bool = False,
        **attributes: Any,
    ) -> tuple[onnx.NodeProto, onnx.FunctionProto]:
        """A node and its function; absent inputs are None or the empty name."""
        given = [tensor or "" for tensor in inputs]
        while given and not given[-1]:
            given.pop()
        if len(given) > len(self.inputs) or len(outputs) != len(self.outputs):
            raise TypeError(
                f"{self.name} takes inputs {self.inputs} and gives {self.outputs}, not {len(given)} and {len(outputs)}"
            )
        function = self.function(
            attributes, [bool(tensor) for tensor in given], rank, opset, differentiable=differentiable
        )
        node = helper.make_node(
            self.name,
            given,
            list(outputs),
            name=name,
            domain=DOMAIN,
            overload=function.overload,
            **self.complete(attributes),
        )
        return node, function
