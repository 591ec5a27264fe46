"""Progress: plain lines in a pipe, a bar on a terminal, nothing without a stream."""

from __future__ import annotations

import io

import pytest

from onnxptq.calibration.progress import Bar, Lines, Silent, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_the_end_and_every_ten_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    with Lines(stream, clock=lambda: now[0]).task("walk", 4) as advance:
        for _ in range(4):
            now[0] += 6
            advance()
    assert stream.getvalue().splitlines() == ["walk: 2 of 4, 12 s to go", "walk: done in 24.0 s"]


def test_short_steps_say_nothing() -> None:
    stream, now = io.StringIO(), [0.0]
    with Lines(stream, clock=lambda: now[0]).task("walk", 1) as advance:
        now[0] += 0.9
        advance()
    assert stream.getvalue() == ""


def test_a_pipe_gets_lines_and_a_terminal_a_bar() -> None:
    assert isinstance(progress_on(io.StringIO()), Lines)
    assert isinstance(progress_on(Terminal()), Bar)
    assert isinstance(progress_on(Terminal(), quiet=True), Silent)


def test_the_bar_shows_label_and_count() -> None:
    stream = Terminal()
    with progress_on(stream).task("walk", 3) as advance:
        for _ in range(3):
            advance()
    assert "walk" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent().task("walk", 2) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
