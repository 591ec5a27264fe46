"""``onnxptq doctor``: installed and missing parts, with advice."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_json
from onnxptq.errors import InputError, one_line

INSTALL_COMPILER = "install a C++ compiler, then onnxptq again"
RUNTIMES = {"openvino": "pip install openvino"}


@dataclass(frozen=True)
class Check:
    """One checked part, with ``advice``; a check is a problem if onnxptq needs the part."""

    group: str
    name: str
    found: str
    advice: str = ""
    problem: bool = False


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Print every check; exit code 2 if one of them is a problem."""
    checks = [*_packages(), *_library(), *_runtimes()]
    problems = [check for check in checks if check.problem]
    out.emit({"ok": not problems, "checks": [asdict(check) for check in checks]})
    width = max(len(check.name) for check in checks)
    for group, members in groupby(checks, key=lambda check: check.group):
        out.say(group)
        for check in members:
            out.say(f"  {check.name:<{width}}  {check.found}{f': {check.advice}' if check.advice else ''}")
    if problems:
        raise InputError("; ".join(f"{check.name} {check.found}: {check.advice}" for check in problems))
    out.say("nothing to mend")
    return 0


def _packages() -> Iterator[Check]:
    """Python, the dependencies and the packages of the extras, from the metadata of this installation."""
    from onnxptq.version import __version__

    yield Check("packages", "onnxptq", __version__)
    yield Check("packages", "python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")
    try:
        named = metadata.requires("onnxptq") or []
    except metadata.PackageNotFoundError:
        yield Check("packages", "installation", "none", "run `pip install .`, so that versions can be checked", True)
        return
    found = [_requirement(text) for text in named]
    for name, least, _ in (one for one in found if not one[2]):
        version = _version(name)
        if version is None:
            yield Check("packages", name, "missing", f'pip install "{name}>={least}"', True)
        elif _numbers(version) < _numbers(least):
            yield Check("packages", name, version, f'too old; pip install "{name}>={least}"', True)
        else:
            yield Check("packages", name, version)
    seen = set()
    for name, least, extra in (one for one in found if one[2]):
        if name not in seen:
            seen.add(name)
            version = _version(name)
            old = version is not None and _numbers(version) < _numbers(least)
            advice = "" if version and not old else f'pip install "onnxptq[{extra}]"'
            yield Check("extras", name, version or "missing", ("too old; " if old else "") + advice)


def _requirement(text: str) -> tuple[str, str, str]:
    """Name, lowest version and extra of a line such as ``torch>=2.4; extra == 'learn'``."""
    match = re.match(r"([\w.-]+)[^;]*?(?:>=\s*([\d.]+))?[^;>]*(?:;.*extra == ['\"]([\w-]+)['\"])?", text)
    assert match is not None
    return match[1], match[2] or "0", match[3] or ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _library() -> Iterator[Check]:
    """The compiled op library and the instruction sets of the CPU."""
    import onnxruntime as ort

    from onnxptq.ops import library

    try:
        path = library.path()
        if path is not None:
            isa, usable, known = library.isa(), library.isas(), library.isas(usable=False)
            ort.SessionOptions().register_custom_ops_library(str(path))
    except InputError as error:
        yield Check("library", "native library", "cannot be used", one_line(error), True)
    except Exception as error:  # onnxruntime's errors have no common class
        yield Check("library", "native library", "does not load", f"{one_line(error)}; install onnxptq again", True)
    else:
        if path is not None:
            yield Check("library", "native library", str(path))
            yield Check("library", "instruction set", f"{isa}; here: {', '.join(usable)}; built: {', '.join(known)}")
        elif library.lacking():
            yield Check("library", "native library", "missing", INSTALL_COMPILER, True)
        else:
            yield Check("library", "native library", "left out (ONNXPTQ_PURE=1, or a processor without kernels)")
    yield Check("library", "CPU", ", ".join(_cpu()) or "unknown")


def _cpu() -> list[str]:
    """The vector instruction sets that NumPy found."""
    import numpy as np

    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return [*simd.get("baseline", []), *simd.get("found", [])]


def _runtimes() -> Iterator[Check]:
    """The runtimes installed here that can run and check artifacts."""
    import onnxruntime as ort

    yield Check("runtimes", "onnxruntime", ", ".join(ort.get_available_providers()))
    for name, advice in RUNTIMES.items():
        version = _version(name)
        yield Check("runtimes", name, version or "missing", "" if version else advice)
    node = shutil.which("node")
    if node is None:
        yield Check("runtimes", "node", "missing", "install Node.js to check artifacts in onnxruntime-web")
    else:
        done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        yield Check("runtimes", "node", done.stdout.strip() or "does not start")
