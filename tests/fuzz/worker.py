"""A child that takes mutated models through the reader, or the whole quantizer, and tells how each ended.

One JSON line before each step of each case, and one with its end: what dies or hangs is known by its last line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.cli import main
from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.source import readable
from onnxptq.running.sessions import session
from onnxptq.structure import discover
from tests.fuzz.mutator import mutant

Arrays = dict[str, NDArray[Any]]
CLOSE = 1e-3
"""Of the largest output: how far a canonical model may be from the original."""
FAR = 0.5
"""The same of a model of 8 bits, in the mean square."""


def say(**words: object) -> None:
    """One line."""
    print(json.dumps(words), file=sys.__stdout__, flush=True)


def feeds(proto: onnx.ModelProto) -> Arrays:
    """Random inputs of the declared shapes."""
    rng = np.random.default_rng(0)
    constants = {t.name for t in proto.graph.initializer}
    made: Arrays = {}
    for port in proto.graph.input:
        if port.name in constants:
            continue
        kind = port.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else 2 for d in kind.shape.dim]
        if np.prod(shape, dtype=float) > 1e6:
            raise MemoryError("an input of this size")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        made[port.name] = np.asarray(rng.normal(size=shape)).astype(dtype)
    return made


def outputs(model: onnx.ModelProto | bytes | Path, given: Arrays) -> list[Any]:
    """What onnxruntime computes."""
    made = session(model, threads=1, optimize=False)
    made_of = {i.name for i in made.get_inputs()}
    return list(made.run(None, {name: array for name, array in given.items() if name in made_of}))


def distance(wanted: list[Any], found: list[Any], *, mean: bool) -> float:
    """The largest difference of outputs, as a part of the largest value (or of the root mean square)."""
    far = 0.0
    if len(wanted) != len(found):
        return float("inf")
    for a, b in zip(wanted, found, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind not in "biuf":
            continue
        if a.shape != np.shape(b):
            if a.size or np.size(b):
                return float("inf")
            continue  # of a loop that never runs only the rank is defined
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not x.size or not np.isfinite(x).all():
            continue
        if not np.isfinite(y).all():
            return float("inf")
        if mean:
            far = max(far, float(np.sqrt(np.square(x - y).mean() / max(np.square(x).mean(), 1e-60))))
        else:
            far = max(far, float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)))
    return far


def judge(path: Path, made: onnx.ModelProto | Path, number: int, limit: float) -> tuple[str, str]:
    """How an accepted model compares with the original."""
    say(case=number, step="original")
    try:
        proto = onnx.load(path, load_external_data=False)
        given = feeds(proto)
        wanted = outputs(path, given)
    except Exception as error:
        return "accepted, but the original does not run", str(error)[:200]
    say(case=number, step="result")
    try:
        found = outputs(made, given)
    except Exception as error:
        return "wrong", f"the result does not run: {error}"[:300]
    far = distance(wanted, found, mean=limit == FAR)
    return ("right", "") if far <= limit else ("wrong", f"{far:.3g} from the original")


def read(path: Path, number: int) -> tuple[str, str]:
    """Load, canonicalise, look for structure, write back, compare."""
    try:
        with readable(path.name):
            held = canonicalise(load(path))
            discover(held)
            made = held.to_proto()
    except InputError as error:
        if isinstance(error.__cause__, Exception) and "cannot be read (" in str(error):
            return "refused as unreadable", str(error)
        return ("refused", str(error)) if "\n" not in str(error) else ("traceback", f"not one line: {error}")
    return judge(path, made, number, CLOSE)


def command(path: Path, number: int, name: str) -> tuple[str, str]:
    """The command line, in this process."""
    shown, told = io.StringIO(), io.StringIO()
    extra = ["--calib", "synthetic", "--samples", "2", "-o", str(path.with_name("out.onnx"))]
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told):
        code = main([name, str(path), "--threads", "1", *(extra if name == "quantize" else [])])
    lines = [line for line in told.getvalue().splitlines() if line.startswith("onnxptq: ")]
    if code == 2:
        return ("refused", lines[-1]) if len(lines) == 1 else ("traceback", told.getvalue()[-300:])
    if code:
        return "traceback", told.getvalue()[-300:]
    return judge(path, path.with_name("out.onnx"), number, FAR) if name == "quantize" else ("right", "")


def run(stage: str, numbers: range, folder: Path) -> None:
    """All cases of a range."""
    path = folder / "m.onnx"
    for number in numbers:
        what, _, data = mutant(number)
        path.write_bytes(data)
        say(case=number, step=stage)
        try:
            end, why = read(path, number) if stage == "load" else command(path, number, stage)
        except BaseException as error:
            where = traceback.format_exc(limit=-2).splitlines()
            end, why = "traceback", f"{type(error).__name__}: {error} at {where}"[:600]
        say(case=number, what=what, end=end, why=why)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=["load", "inspect", "quantize"])
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--gigabytes", type=int, default=4)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (args.gigabytes << 30,) * 2)
    numbers = range(args.first, args.first + args.count * args.step, args.step)
    with tempfile.TemporaryDirectory(prefix="onnxptq-fuzz-") as held:
        run(args.stage, numbers, Path(held))
