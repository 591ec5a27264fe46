"""Types of option values: text in; a value or a one-sentence error out."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, _ActionsContainer
from typing import Any

from onnxptq import arguments
from onnxptq.cli.lists import Listing, recipes, settings, targets

PREPROCESSING = ("imagenet", "sam", "unit", "raw")
DRAWS = ("random", "first")
EXECUTORS = ("native", "function", "python")
LARGEST = 2**31 - 1
RECIPE, BITS = "auto", "w8a8"
"""Defaults of the recipe and the widths, which a plan replaces."""


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    return _number(text, 1, LARGEST)


def seed(text: str) -> int:
    """The seed of a random generator."""
    return _number(text, 0, 2**32 - 1)


def threads(text: str) -> int:
    """A number of threads that onnxruntime can start."""
    from onnxptq.running.sessions import THREADS

    return _number(text, 1, THREADS)


def _number(text: str, least: int, most: int) -> int:
    # Python does not read numbers of thousands of digits.
    known = text.isascii() and text.isdigit() and len(text) <= 20
    if not known or not least <= int(text) <= most:
        end = f"to {most}" if text.isdigit() and text.strip("0") else "or more"
        raise ArgumentTypeError(f"{text!r} is not a whole number of {least} {end}")
    return int(text)


def size(text: str) -> int:
    """Bytes: ``4GB``, ``512MiB``, ``1000000``."""
    found = arguments.size(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a size; write for example 4GB or 512MB")
    return found


def regex(text: str) -> str:
    """A regular expression that compiles."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def named_regex(text: str) -> tuple[str, str]:
    """``NAME=REGEX``."""
    name, value = pair(text)
    return name, regex(value)


def names(text: str) -> list[str]:
    """``A,B``."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME=2,3,4``."""
    name, value = pair(text)
    if not re.fullmatch(r"[1-9][0-9]{0,11}(,[1-9][0-9]{0,11})*", value):
        raise ArgumentTypeError(f"{text!r}: write NAME=2,3,4 with sizes of 1 or more")
    return name, tuple(int(part) for part in value.split(","))


def add_model(parser: ArgumentParser) -> None:
    """The model, and the options that select sites and their treatment."""
    parser.add_argument("model", metavar="MODEL", help="ONNX model")
    about = f"recipe by name, or a TOML file (default {RECIPE}); without NAME: a list of them"
    parser.add_argument("--recipe", action=Listing, rows=recipes, metavar="NAME", help=about)
    parser.add_argument(
        "--bits",
        metavar="wXaY",
        help=f"bits of weights and activations, 2 to 8, or 32 for float (default {BITS}); or auto:N, an average",
    )
    parser.add_argument(
        "--set",
        type=pair,
        action=Listing,
        rows=settings,
        repeated=True,
        default=[],
        metavar="K=V",
        help="a setting of the recipe; without K=V: a list of those of the recipe named before",
    )
    group = parser.add_argument_group("scope")
    group.add_argument(
        "--exclude", type=regex, action="append", default=[], metavar="REGEX", help="leave matching sites in float"
    )
    group.add_argument(
        "--include",
        type=regex,
        action="append",
        default=[],
        metavar="REGEX",
        help="quantize matching sites that are out of scope",
    )
    group.add_argument(
        "--mask", metavar="NAME", help="the input that marks padding, or none (default: found by structure)"
    )
    group.add_argument(
        "--role",
        type=named_regex,
        action="append",
        default=[],
        metavar="NAME=REGEX",
        help="part of matching nodes: visual, text, fusion or decoder",
    )


def add_samples(parser: ArgumentParser, option: str, *, default: str | None = "synthetic") -> None:
    """The options that select the samples."""
    group = parser.add_argument_group("samples")
    note = " (default)" if default else ""
    named = "zoo:MODEL, sam:IMAGES or refcoco:FOLDER (docs/evaluate.md)"
    about = f"folder of images, of .npz or of .npy; one .npz; {named}; or synthetic{note}"
    group.add_argument(option, metavar="SRC", default=default, help=about)
    group.add_argument("--samples", type=positive, metavar="N", help="use at most N samples")
    add_alias(group, {"--data": "--calib", "--calib": "--data"}[option], option)
    add_alias(group, "--limit", "--samples")
    group.add_argument(
        "--preprocess", choices=PREPROCESSING, default="imagenet", help="how images become inputs (default imagenet)"
    )
    group.add_argument(
        "--shape",
        type=shape,
        action="append",
        default=[],
        metavar="NAME=2,3,..",
        help="shape of an input with dynamic sizes",
    )
    group.add_argument(
        "--draw",
        choices=DRAWS,
        default="random",
        help="how N samples are taken from more: at random by the seed, or the first ones (default random)",
    )
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of every random choice (default 0)")


def add_output(parser: _ActionsContainer, about: str, *, metavar: str = "OUT", **more: Any) -> None:
    """``-o``."""
    parser.add_argument("-o", "--output", metavar=metavar, help=about, **more)
    add_alias(parser, "--out", "--output")


def add_target(parser: _ActionsContainer, about: str, **more: Any) -> None:
    """``--target``."""
    about = f"{about}; without NAME: a list of them"
    parser.add_argument("--target", action=Listing, rows=targets, metavar="NAME", help=about, **more)


def add_alias(parser: _ActionsContainer, alias: str, option: str) -> None:
    """Another name for an option, which the help does not list."""
    parser._option_string_actions[alias] = parser._option_string_actions[option]


def add_run(parser: ArgumentParser) -> None:
    """The options of running models, and ``--json``."""
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="native (compiled ops), function (bodies only) or python (default: the best there is)",
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    add_json(parser)


def add_workers(parser: _ActionsContainer) -> None:
    """Where models run on samples."""
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="run samples in N processes (default: in this one)"
    )
    parser.add_argument(
        "--engine", metavar="E", help="processes (default), or ray or ray:ADDRESS, a cluster (docs/scale.md)"
    )


def add_json(parser: ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, words on stderr")
