"""The two errors that end a run without an artifact, and a warning that the CLI shows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """The user's input cannot be used. One line: what, where, what to do. The CLI exits with 2."""


class ArtifactError(Exception):
    """Our artifact does not load or computes wrong values. Our bug: the CLI exits with 1."""


class SpeedWarning(UserWarning):
    """Results are right, but this machine could compute them faster. The CLI prints it on stderr."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


LONGEST = 1000


def printable(text: str) -> str:
    """``text`` with escapes for control and unprintable characters, except line ends and tabs."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def message(text: str) -> str:
    """``text`` as one printable line; the middle of a very long one is left out."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 400]} ... {line[-395:]}"


def one_line(error: BaseException) -> str:
    """The first line of an error's text with content, at most 300 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
