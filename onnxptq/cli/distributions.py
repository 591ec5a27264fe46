"""Distributions of activations for ``onnxptq inspect --calib``: a table, and a page with drawings."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output

if TYPE_CHECKING:
    from onnxptq.calibration.engine import Engine
    from onnxptq.calibration.statistics.histogram import Histogram
    from onnxptq.pipeline.stages import Prepared
    from onnxptq.plan import Plan
    from onnxptq.quantizer import Quantizer

BARS = " ▁▂▃▄▅▆▇█"


def distributions(q: Quantizer, plan: Plan, args: Namespace, out: Output) -> list[dict[str, Any]]:
    """Range, mean and shape of every activation in the plan."""
    from onnxptq.calibration.statistics.base import Request
    from onnxptq.calibration.statistics.histogram import Histogram
    from onnxptq.cli.samples import SYNTHETIC
    from onnxptq.report.text import table
    from onnxptq.structure import Role

    tensors = dict.fromkeys(site.tensor for site in plan.sites.values() if site.role is not Role.WEIGHT)
    filled = _engine(q.prepared, args, out).fill(
        {name: Request(name, Histogram()) for name in tensors}, stage="distributions"
    )
    entries, rows = [], []
    for name, summary in filled.items():
        assert isinstance(summary, Histogram)
        tail = summary.quantile(0.9999), summary.quantile(0.0001)
        outliers = max(summary.high, -summary.low) / max(*map(abs, tail), 1e-30) if summary.count else 1.0
        entries.append(
            {
                "tensor": name,
                "low": summary.low,
                "high": summary.high,
                "p0.01": tail[1],
                "p99.99": tail[0],
                "reach": outliers,
            }
        )
        rows.append(
            [
                name,
                f"{summary.low:.4g}",
                f"{summary.high:.4g}",
                f"{tail[1]:.4g}",
                f"{tail[0]:.4g}",
                f"{outliers:.1f}",
                _sketch(summary),
            ]
        )
    out.say(
        "\n"
        + table(
            ["tensor", "low", "high", "0.01 %", "99.99 %", "reach", "log counts, low to high"], rows, right=range(1, 6)
        )
    )
    if args.calib == "synthetic":
        out.warn(SYNTHETIC)
    out.say(
        "\nreach: the largest magnitude over that of the 0.01 and 99.99 percentiles; above about 2 a few outliers "
        "set the range"
    )
    return entries


def figures(q: Quantizer, args: Namespace, out: Output) -> dict[str, Any]:
    """Fold the model as the recipe does, and draw it before and after."""
    from onnxptq.calibration.sources.split import Samples
    from onnxptq.graph.save import write_atomic
    from onnxptq.pipeline.config import RunContext
    from onnxptq.pipeline.stages import fold
    from onnxptq.report.figures import gather, page

    found = q.prepared
    engine = _engine(found, args, out)
    samples = Samples(engine.source, engine.source, engine.source)
    folded = fold(found, samples, q.config, RunContext(out.progress()))
    drawn = gather(
        found.model,
        found.structure,
        folded.model,
        folded.structure,
        folded.changes,
        lambda model, requests: engine.fill(requests, stage="figures", model=model),
    )
    write_atomic(
        args.figures, page(drawn, model=args.model, recipe=q.config.recipe.name, samples=engine.source.name).encode()
    )
    out.say(f"\nfigures: {args.figures}")
    return {"path": str(args.figures), "above 0.01": {one.name: one.above for one in drawn.attentions}}


def _engine(found: Prepared, args: Namespace, out: Output) -> Engine:
    from onnxptq.calibration.engine import Engine
    from onnxptq.cli.samples import open_for

    return Engine(
        found.model,
        open_for(found.model, found.structure, args.calib, args),
        masks=found.structure.masks,
        memory_limit=args.memory_limit,
        threads=args.threads,
        progress=out.progress(),
    )


def _sketch(seen: Histogram, width: int = 24) -> str:
    """A histogram in one line of block characters, logarithmic."""
    import numpy as np

    if not seen.count or seen.high <= seen.low:
        return ""
    centres = (np.arange(seen.bins) - seen.bins // 2 + 0.5) * seen.width
    place = np.clip(((centres - seen.low) / (seen.high - seen.low) * width).astype(int), 0, width - 1)
    heights = np.log1p(np.bincount(place, seen.counts, minlength=width))
    return "".join(BARS[int(np.ceil(h / heights.max() * (len(BARS) - 1)))] for h in heights)
