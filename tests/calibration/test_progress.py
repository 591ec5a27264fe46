"""Progress: plain lines in a pipe, a bar on a terminal, nothing where nothing is wanted; and sizes as people write
them."""

from __future__ import annotations

import io

import pytest

from onnxptq.calibration.machine import available, cores, parse_size
from onnxptq.calibration.progress import Bar, Lines, Silent, progress_on
from onnxptq.errors import InputError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_the_start_at_the_end_and_every_ten_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    with Lines(stream, clock=lambda: now[0]).task("walk", 4) as advance:
        for _ in range(4):
            now[0] += 6
            advance()
    assert stream.getvalue().splitlines() == ["walk: 4 steps", "walk: 2 of 4", "walk: done in 24.0 s"]


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


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 2**32), ("512m", 2**29), ("2.5 GiB", 5 * 2**29), ("1000", 1000), ("3kb", 3072)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-4GB", "0", "4 PB", "GB"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(InputError, match="write a size such as 4GB"):
        parse_size(text)


def test_the_machine_has_memory_and_cores() -> None:
    assert available() > 2**20
    assert cores() >= 1
