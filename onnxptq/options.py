"""Options of passes and calibrators: declared with a default, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from onnxptq.errors import InputError, nearest
from onnxptq.files import finite

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list"}


def checked(
    where: str,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    choices: Mapping[str, tuple[Any, ...]] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """All options, defaults filled in.

    An InputError for an undeclared option, a value of another type than the default, none of its ``choices``, or
    outside its ``limits``.
    """
    for key, value in given.items():
        if key not in options:
            raise InputError(f"{where} has no option {key!r}{nearest(key, options) if options else ''}")
        default = options[key]
        if not _fits(value, default):
            raise InputError(f"{where}, option {key!r}: expected {KINDS[type(default)]}, got {value!r}")
        if choices and key in choices and value not in choices[key]:
            raise InputError(f"{where}, option {key!r}: {value!r} is none of {', '.join(map(repr, choices[key]))}")
        if limits and key in limits and not limits[key][0] <= value <= limits[key][1]:
            raise InputError(f"{where}, option {key!r}: {value!r} is not in {limits[key][0]:g} .. {limits[key][1]:g}")
    return {**options, **given}


def _fits(value: Any, default: Any) -> bool:
    """True if a value has the type of the default; whole numbers are numbers, lists are tuples."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        try:
            finite(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (list, tuple) if isinstance(default, tuple) else type(default))


class Configurable:
    """A class with a name and options that recipes and ``--set`` give."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """Option names with defaults."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """The values an option may take, where they can be listed."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """The lowest and the highest value of numeric options."""

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All its options, defaults filled in; unknown ones in ``given`` belong to others and are ignored."""
        own = {key: value for key, value in given.items() if key in self.options}
        return checked(f"calibrator {self.name!r}", own, self.options, choices=self.choices, limits=self.limits)
