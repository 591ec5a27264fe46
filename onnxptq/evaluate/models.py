"""Predictors of the models named on the command line."""

from __future__ import annotations

from pathlib import Path

from onnxptq.datasets import zoo
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError
from onnxptq.evaluate.predictors import LavtPredictor, SamPredictor
from onnxptq.running.sessions import Executor

ZOO_SAM, ZOO_LAVT = "zoo:sam-mini", "zoo:lavt-mini"


def sam_files(spec: str) -> tuple[Path, Path]:
    """Encoder and decoder of ENCODER.onnx,DECODER.onnx, of a folder with one of each, or of zoo:sam-mini."""
    if spec == ZOO_SAM:
        return zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder")
    if "," in spec:
        parts = [Path(part) for part in spec.split(",")]
        if len(parts) != 2:
            raise InputError(f"model '{spec}': give ENCODER.onnx,DECODER.onnx, a folder with both, or {ZOO_SAM}")
        return _file(parts[0]), _file(parts[1])
    folder = Path(spec)
    if not folder.is_dir():
        raise InputError(f"model '{spec}': give ENCODER.onnx,DECODER.onnx, a folder with both, or {ZOO_SAM}")
    return _only(folder, "encoder"), _only(folder, "decoder")


def lavt_file(spec: str) -> Path:
    """FILE.onnx, or zoo:lavt-mini."""
    return zoo.path("lavt-mini") if spec == ZOO_LAVT else _file(Path(spec))


def open_sam(spec: str, *, executor: Executor | None = None, threads: int | None = None) -> SamPredictor:
    """The two sessions of a `sam_files` spec."""
    encoder, decoder = sam_files(spec)
    return SamPredictor(encoder, decoder, executor=executor, threads=threads)


def open_lavt(
    spec: str, *, vocabulary: str | Path | None = None, executor: Executor | None = None, threads: int | None = None
) -> LavtPredictor:
    """The session of a LAVT file, or of zoo:lavt-mini; without ``vocabulary`` the zoo's tokenizer."""
    path = lavt_file(spec)
    tokenizer = zoo.tokenizer() if vocabulary is None else WordPiece.load(vocabulary)
    return LavtPredictor(path, tokenizer, executor=executor, threads=threads)


def _only(folder: Path, part: str) -> Path:
    files = sorted(folder.glob(f"*{part}*.onnx"))
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise InputError(
            f"model {folder}: expected one *{part}*.onnx, found {found}; name the files: ENCODER.onnx,DECODER.onnx"
        )
    return files[0]


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"model {path}: no such file")
    return path
