"""Result: the quantized model with its plan and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnxptq.plan import Plan
from onnxptq.report.data import Report
from onnxptq.running.sessions import Executor, session

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class Result:
    """The return value of ``Quantizer.quantize``."""

    model: onnx.ModelProto
    plan: Plan
    report: Report

    def save(self, path: str | Path) -> Path:
        """Write the model, whole or not at all; an existing file is replaced."""
        from onnxptq.graph.save import save

        save(self.model, Path(path))
        return Path(path)

    def session(self, *, executor: Executor | None = None, threads: int | None = None) -> ort.InferenceSession:
        """A session of the model, with the native ops where their library is installed."""
        return session(self.model, executor=executor, threads=threads)
