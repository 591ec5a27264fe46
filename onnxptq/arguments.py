"""Arguments of the Python API: a wrong type or value is an InputError that shows the right way to write it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxptq.errors import InputError

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_EXAMPLES: dict[str, tuple[Any, str]] = {
    "constants": (str, "'fp16' or 'fp32'"),
    "strict": (bool, "True or False"),
    "mask": (str, "the name of an input, or 'none'"),
    "roles": (Mapping, "a mapping such as {'text': '^bert'}"),
    "shapes": (Mapping, "a mapping such as {'image': (1, 3, 256, 256)}"),
    "settings": (Mapping, "a mapping such as {'softmax.scheme': 'uniform'}"),
    "max_loss": ((int, float), "points of mask agreement, such as 0.5"),
    "min_sqnr": ((int, float), "decibels, such as 25"),
    "seed": (int, "a whole number from 0"),
    "threads": (int, "a whole number from 1"),
    "limit": (int, "a number of samples"),
    "preprocess": (str, "'imagenet', 'sam', 'unit' or 'raw'"),
}
"""Type and example of each plain argument; None leaves any of them out."""


def size(text: str) -> int | None:
    """Bytes: ``4GB``, ``512MiB``, ``1000000``; None for other texts."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if not match or len(match[1]) > 20 or (match[3] and not match[2]):
        return None
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]])


def check(**given: Any) -> None:
    """Raise an InputError for the first argument of a wrong type."""
    for name, value in given.items():
        if value is None:
            continue
        if name in _EXAMPLES:
            kind, example = _EXAMPLES[name]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise InputError(f"{name}={value!r}: give {example}")
        elif name in _CHECKS:
            _CHECKS[name](name, value)


def texts(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Settings as ``--set`` takes them: True is ``true``, a list of names is ``["a", "b"]``."""
    found = {}
    for name, value in (settings or {}).items():
        if not isinstance(value, (str, bool, int, float, list, tuple)):
            raise InputError(f"settings[{name!r}]={value!r}: give a text, a number, True, False or a list")
        if isinstance(value, (list, tuple)):
            joined = ",".join(map(str, value))
            found[name] = joined if name in ("passes", "selection", "gate") else str(list(value))
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _bits(name: str, value: Any) -> None:
    if not isinstance(value, str):
        width = f"w{value}a{value}" if isinstance(value, int) and not isinstance(value, bool) else "w8a8"
        raise InputError(f"bits={value!r}: write bits={width!r}, the widths of weights and of activations")


def _format(name: str, value: Any) -> None:
    from onnxptq.lower import FORMATS
    from onnxptq.targets.target import Target

    other, known = ("target", Target.names()) if name == "format" else ("format", list(FORMATS))
    if value in known and value not in (FORMATS if name == "format" else Target.names()):
        raise InputError(f"{name}={value!r}: is a {other}; write {other}={value!r}")
    if not isinstance(value, str):
        raise InputError(f"{name}={value!r}: give a name")


def _patterns(name: str, value: Any) -> None:
    if isinstance(value, str):
        raise InputError(f"{name}={value!r}: give a list: {name}=[{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{name}={value!r}: give a list of regular expressions, such as {name}=['neck']")
    for one in value:
        try:
            re.compile(one)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"{name}=[{one!r}]: is not a regular expression: {error}") from None


def _size(name: str, value: Any) -> None:
    if isinstance(value, str) and (count := size(value)) is not None:
        raise InputError(f"{name}={value!r}: give bytes: {name}={count:_}")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}: give a whole number of bytes, such as {name}=4_000_000_000")


def _plan(name: str, value: Any) -> None:
    from onnxptq.plan import Plan

    if isinstance(value, (str, Path)):
        raise InputError(f"plan={str(value)!r}: write plan=Plan.load({str(value)!r})")
    if not isinstance(value, Plan):
        raise InputError(f"plan: give a Plan, not a {type(value).__name__}")


def _recipe(name: str, value: Any) -> None:
    from onnxptq.recipe import Recipe

    if not isinstance(value, (str, Path, Recipe)):
        raise InputError(f"recipe={value!r}: give a name such as 'auto', a TOML file or a Recipe")


def _model(name: str, value: Any) -> None:
    import onnx

    if not isinstance(value, (str, Path, bytes, onnx.ModelProto)):
        raise InputError(f"model: give a path, bytes or an onnx.ModelProto, not a {type(value).__name__}")


_CHECKS = {
    "model": _model,
    "recipe": _recipe,
    "bits": _bits,
    "format": _format,
    "target": _format,
    "exclude": _patterns,
    "include": _patterns,
    "plan": _plan,
    "max_size": _size,
    "memory_limit": _size,
}
