"""Scheme: a way to write floats as k-bit codes."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Codes = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Params:
    """What a scheme needs to encode one tensor. Array fields are NumPy arrays; JSON in and out."""

    bits: int

    def to_json(self) -> dict[str, Any]:
        """Plain data: arrays become nested lists of Python numbers (float32 values survive the round trip exactly)."""
        plain: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            plain[f.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return plain

    def inputs(self) -> dict[str, NDArray[Any]]:
        """The arrays an op takes as inputs p0, p1 ... for this scheme, named and in order; {} where there are none."""
        return {}


P = TypeVar("P", bound=Params)
REGISTRY: dict[str, Scheme[Any]] = {}


class Scheme(ABC, Generic[P]):
    """One way to write floats as codes. Subclasses are registered by being defined; two of one name are an error."""

    name: ClassVar[str]
    params: ClassVar[type[Params]]
    dynamic: ClassVar[bool] = False
    """Whether ranges come from the tensor itself at run time (no calibration)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(f"two schemes are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}")
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def encode(self, x: F32, p: P) -> Codes:
        """Codes of ``x``: honest k-bit numbers (plus group index bits where the scheme has groups)."""

    @abstractmethod
    def decode(self, codes: Codes, p: P) -> F32:
        """Values of codes."""

    def fake(self, x: F32, p: P) -> F32:
        """``x`` as it looks after coding: what calibrators measure and simulations use."""
        return self.decode(self.encode(x, p), p)

    @abstractmethod
    def grid(self, low: float, high: float, bits: int) -> Iterator[P]:
        """The candidates a search may try for a tensor whose values lie in [low, high]."""

    def bits_per_element(self, p: P, count: int) -> float:
        """True storage of one element, index bits included."""
        return float(p.bits)

    def from_json(self, data: dict[str, Any]) -> P:
        """The inverse of ``Params.to_json``."""
        raise NotImplementedError
