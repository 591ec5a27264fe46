"""Result: the quantized model with its plan and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnxptq.plan import Plan
from onnxptq.report.answer import accuracy
from onnxptq.report.data import Report
from onnxptq.report.text import megabytes, summary
from onnxptq.running.sessions import Executor, session

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class Result:
    """The return value of ``Quantizer.quantize``."""

    model: onnx.ModelProto
    plan: Plan
    report: Report

    def __repr__(self) -> str:
        sizes = self.report.sizes
        size = f"{megabytes(sizes.before)} -> {megabytes(sizes.after)}"
        return f"<Result: {self.report.bits} by recipe {self.report.recipe}, {size}, {accuracy(self.report)}>"

    def _repr_html_(self) -> str:
        from onnxptq.report.html import notebook

        return notebook(self.report)

    def summary(self) -> str:
        """What the command line prints with ``-v``: size, settings, outputs, the worst sites."""
        return summary(self.report)

    def save_report(self, path: str | Path) -> Path:
        """Write the page about what was done, one self-contained HTML file."""
        from onnxptq.graph.save import write_atomic
        from onnxptq.report.html import page

        write_atomic(path, page(self.report).encode(errors="backslashreplace"))
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write the model, whole or not at all; an existing file is replaced."""
        from onnxptq.graph.save import save

        save(self.model, Path(path))
        return Path(path)

    def session(self, *, executor: Executor | None = None, threads: int | None = None) -> ort.InferenceSession:
        """A session of the model, with the native ops where their library is installed."""
        return session(self.model, executor=executor, threads=threads)
