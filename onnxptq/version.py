"""The version, apart from the package so that every layer may say it."""

from __future__ import annotations

__version__ = "0.1.0"
