"""The two ways a run can end without an artifact."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used. One line: what, where, what to do. The CLI exits with 2."""


class ArtifactError(Exception):
    """The artifact we made does not load or does not compute what it should. Our bug: the CLI exits with 1."""
