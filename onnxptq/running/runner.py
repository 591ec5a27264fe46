"""Run models on samples: outputs one sample at a time, inner tensors on request, errors that name the failed model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.errors import ArtifactError, InputError, one_line
from onnxptq.graph.reduce import reduced, with_shapes
from onnxptq.graph.sent import Sent
from onnxptq.running.sessions import Executor, ModelLike, session
from onnxptq.workers import Team, Workers

Sample = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Message = TypeVar("Message", onnx.ModelProto, onnx.ValueInfoProto)
Cut = Callable[[Outputs, Sample], Outputs]
"""Reduces a sample's outputs to the values that count: all, or all but the padding."""
FLOATS: dict[str, Any] = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


class Runner:
    """One model ready to run. Failures are raised as ``error``, starting with the model's ``name``."""

    def __init__(
        self,
        model: ModelLike,
        *,
        name: str = "model",
        executor: Executor | None = None,
        threads: int | None = None,
        error: type[Exception] = ArtifactError,
    ) -> None:
        self.name, self.error = name, error
        if isinstance(model, (str, Path)) and not Path(model).is_file():
            raise error(f"{name}: {'is a folder, not a model' if Path(model).is_dir() else 'no such file'}")
        try:
            self._session = session(model, executor=executor, threads=threads)
        except (error, InputError):
            raise
        except Exception as failure:
            raise error(f"{name}: onnxruntime does not load it: {one_line(failure)}") from failure
        self._inputs = {i.name: FLOATS.get(i.type) for i in self._session.get_inputs()}
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, sample: Sample) -> Outputs:
        """All outputs for one sample.

        Floats of another width are converted; inputs that the model does not have are ignored.
        """
        missing = [name for name in self._inputs if name not in sample]
        if missing:
            raise self.error(
                f"{self.name}: its input {missing[0]!r} is not in the samples, which have {', '.join(sample)}"
            )
        feed = {
            name: sample[name].astype(kind, copy=False)
            if kind is not None and sample[name].dtype.kind == "f"
            else sample[name]
            for name, kind in self._inputs.items()
        }
        try:
            values = self._session.run(None, feed)
        except Exception as failure:
            raise self.error(f"{self.name}: onnxruntime fails to run it: {one_line(failure)}") from failure
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def whole(outputs: Outputs, sample: Sample) -> Outputs:
    """Keep all values."""
    return outputs


def run(
    model: ModelLike,
    samples: Iterable[Sample],
    *,
    name: str = "model",
    cut: Cut = whole,
    executor: Executor | None = None,
    threads: int | None = None,
    error: type[Exception] = ArtifactError,
) -> Iterator[Outputs]:
    """Yield each sample's outputs of ``model`` without padding; nothing is kept."""
    runner = Runner(model, name=name, executor=executor, threads=threads, error=error)
    for sample in samples:
        yield cut(runner(sample), sample)


class Samples(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def chosen(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Some of them, with their numbers."""


class _Running:
    """A model on a worker."""

    def __init__(self, model: Sent, samples: Samples, cut: Cut, name: str, threads: int | None) -> None:
        self._runner, self._samples, self._cut = Runner(model, name=name, threads=threads), samples, cut

    def outputs(self, indices: range) -> Iterator[Outputs]:
        for _, sample in self._samples.chosen(indices):
            yield self._cut(self._runner(sample), sample)


def run_on(
    workers: Workers,
    make: Callable[[], onnx.ModelProto],
    samples: Samples,
    *,
    name: str,
    cut: Cut = whole,
    threads: int | None = None,
) -> Iterator[Outputs]:
    """The same by workers."""
    started = partial(_Running, Sent(make), samples, cut, name, workers.threads(threads))
    with Team(workers, started, most=len(samples)) as team:
        yield from team.ask("outputs", range(len(samples)))


def save_temporary(path: Path, array: NDArray[Any]) -> None:
    """Write an array into a temporary folder; an InputError if the disk is full."""
    try:
        np.save(path, array)
    except OSError as error:
        where = path.parent.parent
        raise InputError(
            f"{where}: temporary files do not fit ({error.strerror}); set TMPDIR to a folder with more room"
        ) from error


class Spool:
    """Outputs of a run on disk, one file each, so that two models need not be in memory together."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxptq-")
        self._names: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def _path(self, sample: int, output: int) -> Path:
        return Path(self._folder.name) / f"{sample}-{output}.npy"

    def fill(self, outputs: Iterable[Outputs]) -> Self:
        """Store all of ``outputs`` except text."""
        for sample in outputs:
            held = {name: array for name, array in sample.items() if array.dtype.kind != "O"}
            for index, array in enumerate(held.values()):
                save_temporary(self._path(len(self._names), index), array)
            self._names.append(list(held))
        return self

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Outputs]:
        for sample, names in enumerate(self._names):
            yield {name: np.load(self._path(sample, index)) for index, name in enumerate(names)}


class InnerTensors:
    """A model with exchangeable outputs, for inner tensors. It is created on request and not kept."""

    def __init__(self, model: ModelLike) -> None:
        self._make = maker(model)
        graph = self._make().graph
        # Copies: a part of a message keeps the whole message in memory, with its weights.
        self._typed = {v.name: copied(v) for v in (*graph.output, *graph.input)}
        self._shapes = {v.name: _shape(v) for v in (*graph.value_info, *self._typed.values())}
        self.tensors = {o for node in graph.node for o in node.output if o} | set(self._typed)

    def outputs(self, names: Sequence[str], rows: Mapping[str, NDArray[np.int64]] | None = None) -> onnx.ModelProto:
        """The model reduced to exactly these tensors as outputs, in order.

        Tensors with ``rows``, given by their indices on all axes but the last, are gathered to outputs of another name.
        """
        proto, wanted = self._make(), []
        # The last come first: onnxruntime then takes the rows of each tensor as soon as it is there (see calibration's
        # taps).
        for name in reversed(names):
            if rows is None or name not in rows:
                wanted.append(self._typed.get(name) or onnx.ValueInfoProto(name=name))
                continue
            places, taken = f"onnxptq_rows:{name}/places", f"onnxptq_rows:{name}"
            proto.graph.initializer.append(onnx.numpy_helper.from_array(rows[name], places))
            proto.graph.node.append(onnx.helper.make_node("GatherND", [name, places], [taken]))
            wanted.append(onnx.ValueInfoProto(name=taken))
        return reduced(proto, wanted[::-1])

    def shapes(self, names: Sequence[str], sample: Sample, **how: Any) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor for one sample: declared, or else computed in the graph (no tensor is fetched)."""
        known = {name: shape for name in names if (shape := self._shapes.get(name)) is not None}
        if len(known) == len(names):
            return known
        asked = [name for name in names if name not in known]
        found = Runner(lambda: with_shapes(self._make(), asked), **how)(sample)
        return known | {name: tuple(int(n) for n in shape) for name, shape in zip(asked, found.values(), strict=True)}


def maker(model: ModelLike) -> Callable[[], onnx.ModelProto]:
    """A function that creates the model anew on each call."""
    if callable(model):
        return model
    if isinstance(model, bytes):
        return partial(onnx.ModelProto.FromString, model)
    return partial(copied, model) if isinstance(model, onnx.ModelProto) else partial(onnx.load, model)


def copied(message: Message) -> Message:
    """A copy of this message."""
    other = type(message)()
    other.CopyFrom(message)
    return other


def _shape(said: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape if all sizes are declared."""
    dims = said.type.tensor_type.shape.dim
    known = said.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
    return tuple(dim.dim_value for dim in dims) if known else None
