"""The command line: parser and exit codes here, one file for each subcommand.

Exit codes: 0; 2 for bad input, with one line on stderr; 1 for a bug of ours; 130 when interrupted, 143 when terminated.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from onnxptq import __version__
from onnxptq.cli.output import Output
from onnxptq.errors import ArtifactError, InputError, SpeedWarning, message, nearest

COMMANDS = {
    "quantize": "quantize a model: one file out, smaller and faster",
    "init": "write a project file: models, samples, targets, promises",
    "run": "make all files of a project, where something changed",
    "inspect": "show what was found in a model: attention, sites, cost",
    "sensitivity": "which layers lose most at which width",
    "compare": "compare two models' outputs: SQNR, cosine, mask agreement",
    "check": "whether a runtime takes a file, by its documented rules",
    "evaluate": "task metrics on a dataset, models side by side",
    "table": "the papers' tables, with one command",
    "bench": "size, speed and memory of models, side by side",
    "export": "checkpoints to ONNX",
    "package": "bake pre- and post-processing into the file",
    "web": "a page that segments pictures in the browser, FP32 and quantized",
    "demo": "the whole way on an embedded model",
    "library": "where the compiled op library is",
    "doctor": "what is installed, what is missing and what to do",
}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and name the nearest known word."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise InputError(message if self.prog == "onnxptq" else f"{self.prog.removeprefix('onnxptq ')}: {message}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if what == "command" else action, f"unknown {what} {value!r}{nearest(str(value), action.choices)}"
            )


def parser() -> Parser:
    """The whole parser. Importing a subcommand's file must stay cheap: every ``--help`` imports all of them."""
    whole = Parser(
        prog="onnxptq",
        description="Post-training quantization of segmentation transformers in ONNX.",
        epilog="`onnxptq COMMAND --help` shows the options of one command.",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"onnxptq {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, about in COMMANDS.items():
        if importlib.util.find_spec(f"onnxptq.cli.{name}") is None:
            commands.add_parser(name, help=f"{about} (not in this version)").set_defaults(run=None, command=name)
            continue
        one = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False)
        module = importlib.import_module(f"onnxptq.cli.{name}")
        module.add(one)
        one.set_defaults(run=module.run, parser=one)
    return whole


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run like Ctrl-C, with its own exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    _open_streams()
    # Sent at import, and a warning in colour where the home folder is read-only.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    debug = os.environ.get("ONNXPTQ_DEBUG") == "1"
    if not debug:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SpeedWarning)
        warnings.formatwarning = lambda said, *_: f"onnxptq: warning: {message(str(said))}\n"
    try:
        with _terminable():
            code = _run(sys.argv[1:] if argv is None else list(argv))
            sys.stdout.flush()
            return code
    except SystemExit as done:
        return int(done.code or 0)
    except KeyboardInterrupt as stop:
        word, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        return _end("; ".join([word, *map(str, stop.args)]), code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as problem:
        if debug:
            raise
        return _end(*_said(problem))


def _said(problem: Exception) -> tuple[str, int]:
    """The line and the exit code of an error."""
    match problem:
        case InputError():
            return str(problem), 2
        case MemoryError():
            return "there is not enough memory; give fewer or smaller samples, or a lower --memory-limit", 2
        case OSError() if problem.errno in DISK_FULL:
            return f"{problem.filename or 'output'}: {problem.strerror}; nothing was written", 2
        case OSError() if problem.filename:
            return f"{problem.filename}: {problem.strerror}", 2
    what = str(problem) if isinstance(problem, ArtifactError) else f"{type(problem).__name__}: {problem}"
    return f"internal error: {what} (please report it; ONNXPTQ_DEBUG=1 shows where it happened)", 1


def _open_streams() -> None:
    """Open closed streams (cron) to nowhere: else the next file opened takes their number, and our output.

    Undecodable names (surrogates) and characters that the locale lacks are written as escapes.
    """
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _terminable() -> Iterator[None]:
    """A context in which SIGTERM raises ``Terminated``."""

    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(argv: Sequence[str]) -> int:
    whole = parser()
    if not argv:
        whole.print_help()
        return 0
    args, extra = whole.parse_known_args(argv)
    if args.run is None:
        raise InputError(f"{args.command} is not in this version")
    if extra:
        known = [option for action in args.parser._actions for option in action.option_strings]
        unknown = next((word for word in extra if word.startswith("-")), "")
        near = nearest(unknown.split("=")[0], known) if unknown else ""
        args.parser.error(f"unknown option {unknown!r}{near}" if unknown else f"unexpected argument {extra[0]!r}")
    code: int = args.run(args, Output(json=getattr(args, "json", False)))
    return code


def _end(text: str, code: int) -> int:
    """Print why a run ended; abandon a stream that cannot be written to any more."""
    try:
        print("onnxptq: " + message(text), file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return code
