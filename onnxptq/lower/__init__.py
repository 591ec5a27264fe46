"""Lowering: a plan with parameters becomes a model in one of three formats, each in its own file."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["native", "portable", "qdq"]
Constants = Literal["fp16", "fp32"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONSTANTS: tuple[Constants, ...] = get_args(Constants)
