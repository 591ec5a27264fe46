"""Body: writes a function body, one standard op at a time, in ONNX's text syntax."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

LARGEST = 3.4028234663852886e38
"""The largest float32."""
Literal = int | float | str | Sequence[int]
FLOAT, UINT8, INT8, UINT16, INT32 = (
    int(getattr(onnx.TensorProto, kind)) for kind in ("FLOAT", "UINT8", "INT8", "UINT16", "INT32")
)


def _written(value: Literal) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (int, float)):
        return repr(value)
    return f"[{', '.join(str(int(v)) for v in value)}]"


class Body:
    """Each call adds a node and returns the name of its output; ``str(body)`` is the text of all nodes.

    Products of codes are integer products wherever a scheme allows it. A ``differentiable`` body computes the same
    values in floats throughout, so that gradients pass: artifacts never carry one.
    """

    def __init__(self, *, differentiable: bool = False) -> None:
        self.differentiable = differentiable
        self._lines: list[str] = []
        self._constants: dict[str, str] = {}

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: Literal) -> str:
        """Add ``out = op <attributes> (inputs)``; without ``out`` a fresh name is made."""
        out = out or f"t{len(self._lines)}"
        given = f" <{', '.join(f'{k} = {_written(v)}' for k, v in attributes.items())}>" if attributes else ""
        self._lines.append(f"{out} = {op}{given} ({', '.join(inputs)})")
        return out

    def _constant(self, value: str) -> str:
        if value not in self._constants:
            self._constants[value] = self(f"Constant <{value}>")
        return self._constants[value]

    def number(self, value: float) -> str:
        """A float scalar."""
        return self._constant(f"value_float = {float(value)!r}")

    def integer(self, value: int, kind: str = "int32") -> str:
        """A scalar of integer type."""
        return self._constant(f"value = {kind} {{{int(value)}}}")

    def byte(self, value: int) -> str:
        """A UINT8 scalar."""
        return self.integer(value, "uint8")

    def integers(self, values: Sequence[int], kind: str = "int64") -> str:
        """A vector of integers."""
        return self._constant(f"value = {kind}[{len(values)}] {{{', '.join(str(int(v)) for v in values)}}}")

    def cast(self, x: str, to: int) -> str:
        """``x`` as another element type."""
        return self("Cast", x, to=to)

    def unless_nan(self, tested: str, x: str) -> str:
        """``x``, or 0 where ``tested`` is NaN."""
        return self("Where", self("IsNaN", tested), self.number(0.0), x)

    def positive(self, x: str, top: float = LARGEST) -> str:
        """``x`` between 0 and ``top``, and 0 for NaN.

        Two passes, where IsNaN and Where cost onnxruntime as much as four: its ThresholdedRelu makes 0 of NaN, and
        OpenVINO's Clip does, which comes first because OpenVINO multiplies what is not above the threshold by 0.
        """
        return self("ThresholdedRelu", self("Clip", x, self.number(0), self.number(top)), alpha=0.0)

    def one_place(self, reduced: str, axis: int = -1, *, out: str = "") -> str:
        """The first entry of a reduced axis: onnxruntime 1.31 keeps the whole axis of an empty tensor."""
        return self("Slice", reduced, self.integers([0]), self.integers([1]), self.integers([axis]), out=out)

    def shape(self, x: str, start: int, end: int | None = None) -> str:
        """Some of the dimensions of ``x``."""
        return self("Shape", x, start=start) if end is None else self("Shape", x, start=start, end=end)

    def reshape(self, x: str, *dims: str) -> str:
        """``x`` reshaped to the concatenation of ``dims``; a zero there is a size of zero."""
        return self("Reshape", x, dims[0] if len(dims) == 1 else self("Concat", *dims, axis=0), allowzero=1)
