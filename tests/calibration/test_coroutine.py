from __future__ import annotations

from collections.abc import Generator

import pytest

from onnxptq.calibration.coroutine import Coroutine, asked


def adding(first: str, *more: str) -> Generator[str, int, int]:
    total = yield first
    for question in more:
        total += yield question
    return total


def nothing() -> Generator[str, int, str]:
    return "at once"
    yield ""


def test_requests_and_the_result() -> None:
    one = Coroutine(adding("a", "b"))
    assert (one.asked, one.done) == ("a", False)
    with pytest.raises(RuntimeError, match="has not returned"):
        _ = one.result
    one.send(3)
    assert (one.asked, one.done) == ("b", False)
    one.send(4)
    assert (one.done, one.result) == (True, 7)


def test_open_requests_by_name() -> None:
    running = {"one": Coroutine(adding("a")), "two": Coroutine(adding("b", "c"))}
    assert asked(running) == {"one": "a", "two": "b"}
    for each in running.values():
        each.send(1)
    assert asked(running) == {"two": "c"}


def test_a_generator_may_ask_nothing() -> None:
    assert Coroutine(nothing()).result == "at once"


def test_an_error_of_the_generator_is_passed_on() -> None:
    def failing() -> Generator[str, int, int]:
        raise ValueError("no")
        yield ""

    with pytest.raises(ValueError, match="no"):
        Coroutine(failing())
