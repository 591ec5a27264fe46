"""Scheme: k-bit codes of floats, defined twice: in NumPy and as a function body.

A scheme's parameters travel as a few arrays, its *inputs*: they are the inputs of its op pair and p0, p1 .. of the
fused ops.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxptq.errors import InputError
from onnxptq.ops.body import UINT8, Body
from onnxptq.ops.product import Term

F32 = NDArray[np.float32]
Array = NDArray[Any]
Codes = NDArray[np.uint8] | NDArray[np.uint16]
Options = Mapping[str, Any]


FLOATS: Mapping[str, Any] = {"dtype": np.dtype(np.float32)}
"""Metadata of a field of ``Params`` that holds float32 values; likewise ``UINT8S`` and ``INT8S``."""
UINT8S: Mapping[str, Any] = {"dtype": np.dtype(np.uint8)}
INT8S: Mapping[str, Any] = {"dtype": np.dtype(np.int8)}


@dataclass(frozen=True, eq=False)
class Params:
    """Parameters that encode one tensor. Array fields are read-only NumPy arrays; converts to and from JSON."""

    bits: int

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, (int, np.integer)) or not 2 <= self.bits <= 8:
            raise InputError(f"{type(self).__name__}: bits = {self.bits!r}; codes have 2 to 8 bits")
        object.__setattr__(self, "bits", int(self.bits))
        for f in dataclasses.fields(self):
            if "dtype" in f.metadata:
                object.__setattr__(self, f.name, self._array(f.name, getattr(self, f.name), f.metadata["dtype"]))

    def _array(self, name: str, value: ArrayLike, dtype: np.dtype[Any]) -> Array:
        given = np.asarray(value)
        with np.errstate(all="ignore"):
            held: Array = given.astype(dtype)
        same = np.isfinite(held).all() if held.dtype.kind == "f" else np.array_equal(held, given)
        if not same:
            raise InputError(
                f"{type(self).__name__}: {name} holds a value that is no finite {dtype}; calibrate again or mend the "
                f"plan"
            )
        held.flags.writeable = False
        return held

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash((type(self), repr(self.to_json())))

    def require(self, holds: bool, message: str) -> None:
        """Raise an InputError unless a condition on the fields holds."""
        if not holds:
            raise InputError(f"{type(self).__name__}: {message}; calibrate again or mend the plan")

    def inputs(self) -> dict[str, Array]:
        """The arrays that carry these parameters, by name, in the order of the ops' inputs."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if "dtype" in f.metadata}

    def attributes(self) -> dict[str, int | str]:
        """Attributes that the ops need besides the width; fused ops prefix their names with ``x_``."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Plain data: arrays become nested lists of Python numbers (float32 values survive the round trip exactly)."""
        plain: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            plain[f.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return plain


P = TypeVar("P", bound=Params)
REGISTRY: dict[str, Scheme[Any]] = {}


class Scheme(ABC, Generic[P]):
    """Codes of floats. Defining a subclass registers it; two of one name are an error.

    ``codes``, ``values`` and ``bind`` define the scheme in NumPy, ``codes_body``, ``values_body`` and ``bind_body`` in
    standard ops: there tensors are names, and codes have any convenient type (``code_type`` at the ops' outputs).
    """

    name: ClassVar[str]
    params: ClassVar[type[Params]]
    doc: ClassVar[str]
    """The definition of the code in one sentence, for the op reference."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays of ``Params.inputs``."""
    attributes: ClassVar[Mapping[str, int | str]] = {}
    """Names and defaults of ``Params.attributes``."""
    ops: ClassVar[str | None] = None
    """Prefix of the op pair ``...QuantizeLinear`` / ``...DequantizeLinear``; None where the scheme has none of its own.

    Never empty: onnxruntime's transpose optimizer takes any ``QuantizeLinear`` for the standard op, whatever its
    domain, and fails on ours.
    """
    code_types: ClassVar[tuple[str, ...]] = ("uint8",)
    """Element types of codes outside of a body."""
    dynamic: ClassVar[bool] = False
    """True if ranges come from the tensor itself at run time (no calibration)."""
    range_bits: ClassVar[int] = 0
    """Bits of what is computed at run time for each range; it travels with the codes."""
    monotone: ClassVar[bool] = True
    """True if decoded values never fall where x rises (in a dynamic scheme: within a row)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(
                f"two schemes are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}"
            )
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def codes(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> Codes:
        """Codes of ``x``."""

    @abstractmethod
    def values(self, codes: Codes, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """Values of codes."""

    def bind(self, x: F32, inputs: Sequence[Array], bits: int) -> Sequence[Array]:
        """The arrays that code ``x``: the given ones, or, in a dynamic scheme, those computed from ``x``."""
        return inputs

    @abstractmethod
    def codes_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """``codes`` in standard ops."""

    @abstractmethod
    def values_body(self, body: Body, codes: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """``values`` in standard ops, for ``codes`` as returned by ``codes_body`` or ``codes_input``."""

    def bind_body(self, body: Body, x: str, inputs: Sequence[str], bits: int) -> Sequence[str]:
        """``bind`` in standard ops."""
        return inputs

    @abstractmethod
    def codes_input(self, body: Body, codes: str) -> str:
        """Integer codes in the type that ``values_body`` reads."""

    def code_type(self, bits: int, options: Options) -> int:
        """ONNX element type of codes outside of a body."""
        return UINT8

    @abstractmethod
    def grid(self, low: float, high: float, bits: int) -> Iterator[P]:
        """The candidates of a search for a tensor with values in [low, high]."""

    def encode(self, x: F32, p: P) -> Codes:
        """Codes of ``x``: true k-bit numbers (plus group index bits where the scheme has groups)."""
        x = np.asarray(x, np.float32)
        return self.codes(x, self.bind(x, tuple(p.inputs().values()), p.bits), p.bits, p.attributes())

    def decode(self, codes: Codes, p: P) -> F32:
        """Values of codes; a TypeError in a dynamic scheme, whose codes need their tensor."""
        if self.dynamic:
            raise TypeError(f"codes of scheme {self.name!r} need the ranges of their tensor: use `fake`")
        return self.values(codes, tuple(p.inputs().values()), p.bits, p.attributes())

    def fake(self, x: F32, p: P) -> F32:
        """``x`` coded and decoded, for calibrators and simulations."""
        return self.fake_arrays(np.asarray(x, np.float32), tuple(p.inputs().values()), p.bits, p.attributes())

    def fake_arrays(self, x: F32, inputs: Sequence[Array], bits: int, options: Options) -> F32:
        """``fake`` with parameters as arrays of the ops."""
        bound = self.bind(x, inputs, bits)
        return self.values(self.codes(x, bound, bits, options), bound, bits, options)

    def fake_body(self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options) -> str:
        """``fake`` in standard ops, as fused ops apply it to their operands."""
        bound = self.bind_body(body, x, inputs, bits)
        return self.values_body(body, self.codes_body(body, x, bound, bits, options), bound, bits, options)

    def terms_body(
        self, body: Body, x: str, inputs: Sequence[str], bits: int, options: Options
    ) -> tuple[Term, ...] | None:
        """``fake`` as a sum of UINT8 codes times scales, for integer products; None where there is no such sum, or
        where one product of floats is cheaper.

        The last dimensions of x are one row; static parameters are single numbers.
        """
        return None

    def bits_per_element(self, p: P, line: int) -> float:
        """True width of one element: its code, its index, and its share of what is computed at run time for a line.

        ``line`` is the number of elements of one range; static parameters belong to the file, not to the elements.
        """
        return p.bits + self.range_bits / max(line, 1)

    def from_json(self, data: Mapping[str, Any]) -> P:
        """The inverse of ``Params.to_json``."""
        return cast("P", self.params(**data))
