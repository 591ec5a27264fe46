"""Runtimes: the same files in onnxruntime, onnxruntime-web (Node) and OpenVINO, one thread, timed in turns."""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.errors import InputError, one_line
from onnxptq.graph.quantized import OWN
from onnxptq.running.sessions import session

Sample = Mapping[str, NDArray[Any]]
Answer = dict[str, NDArray[Any]]
Run = Callable[[Sample], Answer]
PACKAGE = "onnxruntime-web"


@dataclass(frozen=True)
class Runs:
    """The runs of one model in one runtime."""

    outputs: tuple[Answer, ...]
    """Of each sample."""
    cpu_ms: tuple[float, ...] = ()
    """CPU time of each timed run."""

    def faster(self, than: Runs) -> float:
        """Median over the rounds of the other model's CPU time over this one's."""
        return statistics.median(b / max(a, 1e-6) for a, b in zip(self.cpu_ms, than.cpu_ms, strict=True))


def runs(
    runtime: str, models: Sequence[onnx.ModelProto], samples: Sequence[Sample], *, rounds: int = 0
) -> tuple[Runs, ...]:
    """Every model on every sample, then ``rounds`` timed runs of the first sample in turns.

    An InputError if the runtime is not installed, or does not run a model.
    """
    require(runtime)
    try:
        return _web(models, samples, rounds) if runtime == "web" else _here(OPEN[runtime], models, samples, rounds)
    except InputError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise InputError(f"runtime {runtime}: a model does not run there: {one_line(error)}") from error


def require(runtime: str) -> None:
    """An InputError if a runtime is unknown or not installed."""
    if runtime not in RUNTIMES:
        raise InputError(f"unknown runtime {runtime!r}; use one or more of {', '.join(RUNTIMES)}")
    missing = RUNTIMES[runtime]()
    if missing:
        raise InputError(f"runtime {runtime}: {missing}")


def _here(
    start: Callable[[onnx.ModelProto], Run], models: Sequence[onnx.ModelProto], samples: Sequence[Sample], rounds: int
) -> tuple[Runs, ...]:
    """In this process."""
    started = [start(model) for model in models]
    outputs = [tuple(run(sample) for sample in samples) for run in started]
    spent: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for run, times in zip(started, spent, strict=True):
            before = time.process_time()
            run(samples[0])
            times.append(1000 * (time.process_time() - before))
    return tuple(Runs(made, tuple(times)) for made, times in zip(outputs, spent, strict=True))


def _onnxruntime(model: onnx.ModelProto, *, native: bool = False) -> Run:
    opened = session(model, executor="native" if native else "function", threads=1)
    names = [output.name for output in opened.get_outputs()]
    return lambda sample: dict(zip(names, map(np.asarray, opened.run(names, dict(sample))), strict=True))


def _openvino(model: onnx.ModelProto) -> Run:
    names = [output.name for output in model.graph.output]
    compiled = compiled_by_openvino(model)

    def run(sample: Sample) -> Answer:
        done = compiled({name: np.array(array) for name, array in sample.items()})
        return {name: np.array(done[name]) for name in names}

    return run


def compiled_by_openvino(model: onnx.ModelProto) -> Any:
    """A model compiled by OpenVINO for one thread of the CPU, in float32 where the model has floats.

    It reads no functions, so those of our domain are inlined.
    """
    import openvino
    from onnx import inliner

    if any(node.domain == OWN for node in model.graph.node):
        model = inliner.inline_local_functions(model)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)


def _web(models: Sequence[onnx.ModelProto], samples: Sequence[Sample], rounds: int) -> tuple[Runs, ...]:
    """In Node."""
    records = [{name: _encode(array) for name, array in sample.items()} for sample in samples]
    with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
        paths = [Path(folder) / f"{index}.onnx" for index, _ in enumerate(models)]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model.SerializeToString())
        command = ["node", str(Path(__file__).with_name("web.mjs")), str(rounds), *map(str, paths)]
        done = subprocess.run(command, input=json.dumps(records).encode(), capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"runtime web: a model does not run there: {done.stderr.decode(errors='replace')[-300:]}")
    return tuple(
        Runs(
            tuple({name: _decode(record) for name, record in answer.items()} for answer in one["outputs"]),
            tuple(one["cpu"]),
        )
        for one in json.loads(done.stdout)
    )


def _encode(array: NDArray[Any]) -> dict[str, Any]:
    return {
        "type": str(array.dtype),
        "dims": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def _decode(record: Mapping[str, Any]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(record["data"]), record["type"]).reshape(record["dims"])


def _no_web() -> str:
    if shutil.which("node") is None:
        return "Node is not installed"
    return "" if web_package() else f"{PACKAGE} is not installed; run `npm install {PACKAGE}` in this folder"


def web_package() -> Path | None:
    """onnxruntime-web's folder, found as Node finds packages: from the working folder upwards."""
    places = (folder / "node_modules" / PACKAGE for folder in (Path.cwd(), *Path.cwd().parents))
    return next((place for place in places if place.is_dir()), None)


def _no_openvino() -> str:
    return "" if find_spec("openvino") is not None else "openvino is not installed; run `pip install openvino`"


def _no_library() -> str:
    from onnxptq.running.sessions import library_path

    return "" if library_path() is not None else "no compiled op library here; `onnxptq doctor` says what to do"


OPEN: Mapping[str, Callable[[onnx.ModelProto], Run]] = {
    "onnxptq": partial(_onnxruntime, native=True),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Runtimes in this process: onnxruntime with our library, without it, and OpenVINO."""
RUNTIMES: Mapping[str, Callable[[], str]] = {
    "onnxptq": _no_library,
    "onnxruntime": lambda: "",
    "web": _no_web,
    "openvino": _no_openvino,
}
"""Each runtime, and why it is not available here; "" if it is."""
