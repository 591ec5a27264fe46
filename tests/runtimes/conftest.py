"""Other runtimes as plain functions (model, samples) -> outputs, and small quantized models to run in them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).parent
Sample = dict[str, NDArray[Any]]
Runtime = Callable[[onnx.ModelProto, Iterable[Sample]], list[Sample]]


def missing(what: str) -> NoReturn:
    if os.environ.get("ONNXPTQ_REQUIRE_RUNTIMES") == "1":
        pytest.fail(f"{what}, and ONNXPTQ_REQUIRE_RUNTIMES=1")
    pytest.skip(f"{what}; run `make test-runtimes`")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def node() -> None:
    """Node with onnxruntime-web in this folder."""
    if shutil.which("node") is None or not (HERE / "node_modules" / "onnxruntime-web").is_dir():
        missing("Node or its package onnxruntime-web is not installed")


@pytest.fixture(scope="session")
def chromium(node: None) -> str:
    """A Chromium that playwright-core drives."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None or not (HERE / "node_modules" / "playwright-core").is_dir():
        missing("Chromium or the Node package playwright-core is not installed")
    return found


def driven(script: str, browser: str, **words: Any) -> Any:
    """The answer of a script of this folder that drives the browser."""
    command = ["node", script, browser]
    done = subprocess.run(command, cwd=HERE, input=json.dumps(words).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def _other(runtime: str) -> Runtime:
    """A runtime by the drivers of `onnxptq compare --runtime`, with the packages of this folder."""
    from onnxptq.errors import InputError
    from onnxptq.running import runtimes

    def run(model: onnx.ModelProto, samples: Iterable[Sample]) -> list[Sample]:
        with contextlib.chdir(HERE):
            (found,) = runtimes.runs(runtime, [model], list(samples))
        return list(found.outputs)

    with contextlib.chdir(HERE):
        try:
            runtimes.require(runtime)
        except InputError as error:
            missing(str(error))
    return run


@pytest.fixture(scope="session")
def web() -> Runtime:
    """onnxruntime-web: WebAssembly in Node."""
    return _other("web")


@pytest.fixture(scope="session")
def openvino() -> Runtime:
    """OpenVINO on the CPU, in float32 where the model has floats."""
    return _other("openvino")


def _onnxruntime(optimize: bool) -> Runtime:
    from onnxptq.running.sessions import session

    def run(model: onnx.ModelProto, samples: Iterable[Sample]) -> list[Sample]:
        opened = session(model, executor="function", threads=1, optimize=optimize)
        names = [o.name for o in opened.get_outputs()]
        return [dict(zip(names, opened.run(names, sample), strict=True)) for sample in samples]

    return run


@pytest.fixture(scope="session")
def plain() -> Runtime:
    """onnxruntime without the op library: function bodies."""
    return _onnxruntime(optimize=True)


@pytest.fixture(scope="session")
def literal() -> Runtime:
    """``plain`` without graph optimisation, which rounds biases of Q/DQ models to INT32."""
    return _onnxruntime(optimize=False)


class Artifacts:
    """Quantized mini models, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cache  # noqa: B019
    def original(self, name: str) -> onnx.ModelProto:
        from onnxptq.models import mini

        return onnx.load(mini.cached(name, self._folder).path)

    @functools.cache  # noqa: B019
    def held_out(self, name: str) -> list[Sample]:
        from onnxptq.models import mini

        return mini.samples(name, 3, seed=99)

    @functools.cache  # noqa: B019
    def outputs(self, name: str, runtime: Runtime) -> list[Sample]:
        return runtime(self.original(name), self.held_out(name))

    @functools.cache  # noqa: B019
    def _quantized(self, name: str, recipe: str, bits: str, format: str) -> Any:
        from onnxptq import Quantizer
        from onnxptq.models import mini

        quantizer = Quantizer(self.original(name), recipe=recipe, bits=bits, format=format, threads=1)
        quantizer.calibrate(mini.samples(name, 4))
        return quantizer.quantize()

    @functools.cache  # noqa: B019
    def quantized(self, name: str, recipe: str, bits: str, format: str) -> onnx.ModelProto:
        model: onnx.ModelProto = self._quantized(name, recipe, bits, format).model
        return model


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    torch = pytest.importorskip("torch", reason="the models come from torch's exporter")
    torch.set_num_threads(1)
    return Artifacts(tmp_path_factory.mktemp("mini"))
