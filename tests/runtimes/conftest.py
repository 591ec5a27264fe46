"""Other runtimes as plain functions (model, samples) -> outputs, and small quantized models to run in them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable
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
