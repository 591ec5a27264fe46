"""Options are declared with a default, and everything else is refused with the nearest name."""

from __future__ import annotations

from typing import Any

import pytest

from onnxptq.errors import InputError
from onnxptq.options import Configurable, checked

OPTIONS = {"rule": "mean", "share": 0.5, "count": 3, "deep": False, "names": ()}


class Example(Configurable):
    """Something with options."""

    name = "example"
    options = OPTIONS
    choices = {"rule": ("mean", "range")}  # noqa: RUF012
    limits = {"share": (0, 1), "count": (1, 9)}  # noqa: RUF012


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rul": 1}, "x has no option 'rul'; did you mean 'rule'"),
        ({"rule": "median"}, "x, option 'rule': 'median' is none of 'mean', 'range'"),
        ({"rule": 3}, "expected a text, got 3"),
        ({"share": "much"}, "expected a number, got 'much'"),
        ({"share": True}, "expected a number, got True"),
        ({"share": float("nan")}, "expected a number, got nan"),
        ({"share": 1.5}, "1.5 is not in 0 .. 1"),
        ({"count": 2.0}, "expected a whole number, got 2.0"),
        ({"count": 2**70}, "is not in 1 .. 9"),
        ({"deep": 1}, "expected true or false, got 1"),
        ({"names": "a"}, "expected a list, got 'a'"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked("x", given, OPTIONS, choices=Example.choices, limits=Example.limits)


def test_defaults_are_filled_in() -> None:
    assert checked("x", {"share": 1, "names": ["a"]}, OPTIONS) == OPTIONS | {"share": 1, "names": ["a"]}
    with pytest.raises(InputError, match=r"x has no option 'a'$"):
        checked("x", {"a": 1}, {})


def test_options_of_others_are_left_to_them() -> None:
    assert Example().settings({"count": 5, "other": 1}) == OPTIONS | {"count": 5}
    with pytest.raises(InputError, match=r"calibrator 'example', option 'count': 0 is not in 1 \.\. 9"):
        Example().settings({"count": 0})
