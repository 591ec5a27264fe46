"""Arrays of parameters in a plan's JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxptq.files import whole

READABLE = 16
"""Maximum number of elements of an array written as numbers; longer ones are base64, with their range."""
DTYPES = ("float32", "uint8", "int8")


def packed(value: Any) -> Any:
    """Short arrays as numbers, float32 by their shortest digits; long ones in base64, with their range for readers."""
    if not isinstance(value, np.ndarray):
        return value
    if value.size > READABLE:
        raw = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
        low, high = (float(str(end)) for end in (value.min(), value.max()))
        return {"dtype": value.dtype.name, "shape": list(value.shape), "range": [low, high], "base64": raw}
    if value.dtype.kind != "f":
        return value.tolist()
    digits = np.array([float(str(x)) for x in value.reshape(-1)]).reshape(value.shape)
    return digits.tolist()


def unpacked(held: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of parameters, arrays restored; a ValueError for what ``packed`` does not write."""
    found = dict(held)
    for key, value in held.items():
        if isinstance(value, dict):
            kind = value["dtype"]
            if kind not in DTYPES:
                raise ValueError(f"{key}: unknown type {kind!r}")
            raw = base64.b64decode(value["base64"], validate=True)
            array = np.frombuffer(raw, np.dtype(kind).newbyteorder("<"))
            found[key] = array.reshape([whole(n, least=0) for n in value["shape"]]).astype(kind)
    return found
