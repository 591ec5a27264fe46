"""Sent: a function that makes a model, and that can be sent to another process as the model itself."""

from __future__ import annotations

from collections.abc import Callable

import onnx

LARGE = 1 << 16
"""Bytes above which a weight travels beside its message, which may not reach 2 GiB."""


class Sent:
    """Makes a model for its only use. The copy in another process makes it once."""

    def __init__(self, make: Callable[[], onnx.ModelProto]) -> None:
        self._make = make

    def __call__(self) -> onnx.ModelProto:
        """The model."""
        return self._make()

    def __reduce__(self) -> tuple[Callable[..., Sent], tuple[bytes, dict[int, bytes]]]:
        proto, apart = self._make(), dict[int, bytes]()
        for index, held in enumerate(proto.graph.initializer):
            if len(held.raw_data) > LARGE:
                apart[index] = held.raw_data
                held.ClearField("raw_data")
        return _arrived, (proto.SerializeToString(), apart)


def _arrived(message: bytes, apart: dict[int, bytes]) -> Sent:
    def make() -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.ParseFromString(message)
        for index in list(apart):
            proto.graph.initializer[index].raw_data = apart.pop(index)
        return proto

    return Sent(make)
