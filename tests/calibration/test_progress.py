"""Progress: plain lines in a pipe, a bar on a terminal, nothing without a stream."""

from __future__ import annotations

import io

import pytest

from onnxptq.calibration.progress import Bar, Lines, Silent, Titled, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_the_end_and_every_half_minute() -> None:
    stream, now = io.StringIO(), [0.0]
    with Lines(stream, clock=lambda: now[0]).task("walk", 4) as advance:
        for _ in range(4):
            now[0] += 16
            advance()
    assert stream.getvalue().splitlines() == ["walk: 2 of 4, 32 s to go", "walk: done in 64.0 s"]


def test_one_line_a_stage() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = Lines(stream, clock=lambda: now[0])
    with lines.stage("calibration"):
        for label in ("round 1", "round 2"):
            with lines.task(label, 1) as advance:
                now[0] += 2
                advance()
    with lines.stage("lower"):
        now[0] += 0.5
    with lines.stage("omse, to compare"), Titled("omse", lines).stage("weights"):
        now[0] += 3
    assert stream.getvalue().splitlines() == ["calibration: done in 4.0 s", "omse, to compare: done in 3.0 s"]


def test_one_bar_over_all_stages() -> None:
    """It only grows, ends at 1, and knows what a stage that is left out or unforeseen means."""
    stream, now, seen = Terminal(), [0.0], [0.0]
    bar = Bar(stream, clock=lambda: now[0])
    bar.expect(["passes", "calibration", "weights", "selection", "measure"])
    for stage in ("calibration", "surprise", "weights", "measure"):
        with bar.stage(stage):
            for step in ("one", "two"):
                with bar.task(step, 3) as advance:
                    for _ in range(3):
                        now[0] += 1
                        advance()
                        seen.append(bar.done)
        seen.append(bar.done)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    assert 0.15 < seen[7] < 0.25, "calibration, with no passes before it"
    assert "0 s to go" in stream.getvalue()


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
    assert "3 of 3" in stream.getvalue()


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent().task("walk", 2) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
