"""Pictures of the tables of speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def op_bars(found: dict[str, dict[str, Any]], path: Path, caption: str) -> None:
    """Bars of speed, a panel for each instruction set and table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(found), len(next(iter(found.values()))), figsize=(13, 3.2 * len(found)), squeeze=False
    )
    for line, (isa, kinds) in zip(axes, found.items(), strict=True):
        for axis, (kind, rows) in zip(line, kinds.items(), strict=True):
            names = [name for name in next(iter(rows.values())) if name != "FP32"]
            width = 0.8 / len(names)
            for i, name in enumerate(names):
                at = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * width
                colour = "#7f7f7f" if name == "MatMulInteger" else pyplot.get_cmap("viridis")(i / len(names))
                axis.bar(at, [row[name]["speed"] for row in rows.values()], width, label=name, color=colour)
            axis.axhline(1, color="black", linewidth=0.5)
            axis.set_xticks(range(len(rows)), [name.replace(", ", "\n") for name in rows], fontsize=7)
            axis.set(title=f"{kind}, {isa}", ylabel="times as fast as FP32")
            axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
            axis.legend(fontsize=6, ncols=4, loc="upper center")
    figure.text(0.01, 0.005, caption, fontsize=7)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def model_dots(found: dict[str, list[dict[str, Any]]], threads: int, path: Path, caption: str) -> None:
    """Accuracy against speed, the area of a dot growing with the file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    colours = {"onnxruntime": "#7f7f7f", "openvino": "#1f77b4", "onnxptq": "#d62728"}
    figure, axes = pyplot.subplots(1, len(found), figsize=(5.5 * len(found), 4.5), squeeze=False)
    for axis, (name, records) in zip(axes[0], found.items(), strict=True):
        dots = [
            (record[f"ratio-{threads}"]["ratio"], record)
            for record in records
            if f"ratio-{threads}" in record and record["row"]
        ]
        middle = (min([1.0, *(x for x, _ in dots)]) + max([1.0, *(x for x, _ in dots)])) / 2
        for x, record in dots:
            axis.scatter(x, record["sqnr"], s=50 * record["mib"] ** 0.5, color=colours[record["engine"]], alpha=0.7)
            label = (
                record["name"]
                .removeprefix("onnxruntime ")
                .replace(" per channel", "")
                .replace("MatMul+Gemm+Conv", "products")
            )
            side, shift = ("right", -8) if x > middle else ("left", 8)
            axis.annotate(
                label, (x, record["sqnr"]), xytext=(shift, 5), textcoords="offset points", fontsize=7, ha=side
            )
        axis.margins(0.12)
        axis.axvline(1, color="black", linewidth=0.5)
        axis.set(
            title=name,
            xlabel=f"times as fast as FP32 onnxruntime, {threads} thread{'s' if threads > 1 else ''}",
            ylabel="SQNR, dB",
        )
    figure.text(0.01, 0.01, caption, fontsize=7)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
