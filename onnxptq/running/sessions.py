"""Sessions: the only place that chooses an executor for domain ``onnxptq``."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime as ort

from onnxptq.errors import InputError, SpeedWarning

Executor = Literal["native", "function", "python"]
ModelLike = str | Path | bytes | onnx.ModelProto | Callable[[], onnx.ModelProto]
"""A file, a model, or a function that creates a model for its only use."""
THREADS = max(64, 2 * (os.cpu_count() or 1))
"""Maximum number of threads of a session: where the system refuses threads, onnxruntime ends the process."""
PROTOBUF_LIMIT = 2**31 - 2**20
HEAVY = 2**26
"""Bytes of weights above which memory left by earlier models is released first."""

WITHOUT_LIBRARY = (
    "no compiled op library: quantized models run through their function bodies and take longer (1.1 to 1.6 times the "
    "CPU time on a machine with AVX2, docs/speed.md); `onnxptq doctor` says what to do, ONNXPTQ_PURE=1 silences this"
)


def library_path() -> Path | None:
    """The compiled op library, or None where there is none."""
    from onnxptq.ops import library

    return library.path()


def session(
    model: ModelLike,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    optimize: bool = True,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    libraries: Sequence[str | Path] = (),
    optimised: Path | None = None,
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """An onnxruntime session with our ops: the native library if available (default), else the function bodies.

    ``executor`` forces ``native`` (an InputError without the library), ``function`` (bodies only, like any plain
    onnxruntime) or ``python`` (NumPy references through onnxruntime-extensions, for debugging). ``libraries`` are
    further custom-op libraries, which packaged models with a tokenizer need. ``optimised`` is a file to which
    onnxruntime writes the graph that it executes. ``options`` are the caller's own, to which the libraries are added;
    without them errors are not printed, and memory patterns are off.
    """
    options = _options() if options is None else options
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    for other in libraries:
        options.register_custom_ops_library(str(other))
    if threads is not None:
        if not 1 <= threads <= THREADS:
            raise InputError(f"threads = {threads}: use 1 to {THREADS}")
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # By default onnxruntime quantizes activations of INT4 products on its own: results move by 1-2 %.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    library = library_path()
    if executor == "native" and library is None:
        raise InputError(
            "executor 'native': no compiled op library here; install with a C++ compiler, or use executor 'function'"
        )
    if executor is None and library is None:
        _warn_without_library()
    if executor in (None, "native") and library is not None:
        options.register_custom_ops_library(str(library))
    elif executor == "python":
        from onnxptq.ops import pyops

        pyops.register(options)
    if isinstance(model, (str, Path)):
        return ort.InferenceSession(str(model), options, providers=list(providers))
    if isinstance(model, bytes):
        return ort.InferenceSession(model, options, providers=list(providers))
    made, weight = _made(model, options, providers)
    if weight > HEAVY:
        _give_back()
    return made


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Errors become exceptions with a message; onnxruntime would print them to stderr as well, in colour.
    options.log_severity_level = 4
    # The second run would put all its tensors into a new block beside those of the first: twice the memory, paged in
    # once more.
    options.enable_mem_pattern = False
    return options


@functools.cache
def _warn_without_library() -> None:
    """Warn of the cost of a missing library, once per process."""
    from onnxptq.ops import library

    if library.lacking():
        warnings.warn(WITHOUT_LIBRARY, SpeedWarning, stacklevel=3)


def _made(
    model: onnx.ModelProto | Callable[[], onnx.ModelProto], options: ort.SessionOptions, providers: Sequence[str]
) -> tuple[ort.InferenceSession, int]:
    """A session and the bytes of its weights; the model's source and message are released here."""
    proto = model() if callable(model) else model
    # ByteSize fails for messages above the protobuf limit.
    weight = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if weight > PROTOBUF_LIMIT:
        return _large(proto, options, providers), weight
    message = proto.SerializeToString()
    del proto
    return ort.InferenceSession(message, options, providers=list(providers)), weight


def _give_back() -> None:
    """Release memory of earlier models and sessions: reference cycles in Python, and freed memory that glibc keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _large(model: onnx.ModelProto, options: ort.SessionOptions, providers: Sequence[str]) -> ort.InferenceSession:
    """A session of a model above the protobuf limit, through a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
        path = os.path.join(folder, "model.onnx")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        return ort.InferenceSession(path, options, providers=list(providers))
