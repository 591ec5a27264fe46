"""Bits: the widths of weights and activations that a user asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxptq.errors import InputError

WIDTHS = range(2, 9)
WIDEST = WIDTHS[-1]
FLOAT = 32


@dataclass(frozen=True)
class Bits:
    """Widths of weights and activations; 32 means float."""

    weights: int
    activations: int
    average: float | None = None
    """If given, each site has a width of its own, and this is the most that weights, and activations, may have on
    average."""

    @classmethod
    def parse(cls, text: str) -> Bits:
        """``w8a8``, ``w4a32``, ``auto:4.5`` ..."""
        if mixed := re.fullmatch(r"auto:(\d+(?:\.\d+)?)", text.strip()):
            average = float(mixed[1])
            if not WIDTHS[0] <= average <= WIDEST:
                raise InputError(f"--bits {text!r}: an average of {mixed[1]} bits is out of range; use 2 to 8")
            return cls(WIDEST, WIDEST, average)
        match = re.fullmatch(r"[wW](\d+)[aA](\d+)", text.strip())
        if not match:
            raise InputError(f"--bits {text!r}: write wXaY, for example w6a6 or w4a8, or auto:4.5")
        bits = cls(int(match[1]), int(match[2]))
        for what, width in (("weights", bits.weights), ("activations", bits.activations)):
            if width not in WIDTHS and width != FLOAT:
                raise InputError(
                    f"--bits {text!r}: {what} of {width} bits are out of range; use 2 to 8, or 32 to leave them in "
                    f"float"
                )
        if bits.weights == bits.activations == FLOAT:
            raise InputError(f"--bits {text!r}: nothing to quantize; give weights or activations 2 to 8 bits")
        return bits

    def __str__(self) -> str:
        return f"auto:{self.average:g}" if self.average is not None else f"w{self.weights}a{self.activations}"
