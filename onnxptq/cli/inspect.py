"""``onnxptq inspect``: the structure of a model, and the effect of a recipe on it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, writable
from onnxptq.cli.values import add_json, add_model, add_samples, size, threads
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.calibration.engine import Engine
    from onnxptq.calibration.statistics.histogram import Histogram
    from onnxptq.pipeline.stages import Prepared
    from onnxptq.plan import Plan
    from onnxptq.quantizer import Quantizer
    from onnxptq.structure import Attention, Site

BARS = " ▁▂▃▄▅▆▇█"


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_model(parser)
    parser.add_argument("--cost", action="store_true", help="operations and storage by width")
    add_samples(parser, "--calib", default=None)
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FILE",
        help="page with drawings of keys, softmax and GELU outputs; needs --calib",
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    parser.add_argument("--memory-limit", type=size, metavar="4GB", help="limit for the tensors held at a time")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Print structure and sites with their schemes, and on demand distributions and cost."""
    from onnxptq.cli.quantize import quantizer
    from onnxptq.report.text import table

    if args.figures is not None:
        if args.calib is None:
            raise InputError("--figures: --calib is missing; there is nothing to draw without samples")
        writable(args.figures)
    q = quantizer(args, out)
    plan = q.plan()
    for warning in q.warnings:
        out.warn(warning)
    data = _structure(args.model, q.prepared, out)
    data["in float"] = _left(q.prepared, plan, args, out)
    rows = [_site(site, plan) for site in q.structure.sites]
    header = ["site", "tensor", "role", "part", "channels", "scheme", "bits", "calibrator", "granularity"]
    out.say("\n" + table(header, rows, right=(4, 6)))
    data["sites"] = [dict(zip(header, row, strict=True)) for row in rows]
    if args.calib is not None:
        data["distributions"] = _distributions(q, plan, args, out)
    if args.figures is not None:
        data["figures"] = _figures(q, args, out)
    if args.cost:
        data["cost"] = _cost(q.prepared, plan, args, out)
    out.emit(data)
    return 0


def _structure(name: str, inspection: Prepared, out: Output) -> dict[str, Any]:
    """Counts, attentions, masks and notes."""
    import numpy as np

    from onnxptq.report.text import table

    model, found = inspection.model, inspection.structure
    parameters = sum(c.values.size for c in model.constants() if np.asarray(c.values).dtype.kind == "f")
    counts = {
        "linears": len(found.linears),
        "convolutions": len(found.convs),
        "attentions": len(found.attentions),
        "other products": len(found.matmuls),
        "LayerNorm": len(found.norms),
        "BatchNorm": len(found.batch_norms),
        "GELU": len(found.gelus),
    }
    parts = Counter(site.part.value for site in found.sites)
    out.say(f"{name}: opset {model.opset}, {len(model.graph.nodes)} nodes, {parameters / 1e6:.2f} million parameters")
    out.say("  " + ", ".join(f"{number} {what}" for what, number in counts.items() if number))
    out.say("  sites by part: " + (", ".join(f"{number} {part}" for part, number in parts.items()) or "none"))
    for mask, tokens in found.masks.items():
        out.say(
            f"  mask {mask}"
            + (f" marks the padding of {tokens}" if tokens else "")
            + "; what it hides is left out of every statistic"
        )
    for note in model.notes:
        out.say(f"  note: {note}")
    header = ["attention", "part", "heads", "dim", "queries", "keys", "also added", "what"]
    rows = [_attention(one) for one in found.attentions.values()]
    if rows:
        out.say("\n" + table(header, rows, right=(2, 3, 4, 5)))
    attentions = [dict(zip(header, row, strict=True)) for row in rows]
    return {
        "model": name,
        "opset": model.opset,
        "parameters": parameters,
        "structure": counts,
        "parts": dict(parts),
        "masks": dict(found.masks),
        "notes": model.notes,
        "attentions": attentions,
    }


def _left(inspection: Prepared, plan: Plan, args: Namespace, out: Output) -> list[dict[str, Any]]:
    """Layers that stay in float by structure, with shares where sizes are known or samples are given."""
    from onnxptq.cli.samples import open_for
    from onnxptq.report.left import is_static, left_in_float, left_table

    model, found = inspection.model, inspection.structure
    if not found.left:
        return []
    if is_static(model, found):
        left = left_in_float(model, found, plan, {})
    else:
        first = next(iter(open_for(model, found, args.calib or "synthetic", Namespace(**{**vars(args), "samples": 1}))))
        left = left_in_float(model, found, plan, first)
    if left:
        out.say("\n" + left_table(left))
    return [{"reason": one.reason, "share": one.share, "nodes": list(one.nodes)} for one in left]


def _attention(one: Attention) -> list[str]:
    added = (
        [f"{len(one.additive)} terms"] * bool(one.additive)
        + ["relative position"] * (one.rel_h is not None)
        + ["mask"] * one.masked
    )
    kind = ", ".join(["token to image"] * one.token_to_image + [f"not fused: {one.apart}"] * (not one.fusable))
    sizes = [str(n) if n is not None else "?" for n in (one.queries, one.keys)]
    return [one.name, one.part.value, str(one.heads), str(one.dim), *sizes, ", ".join(added), kind]


def _site(site: Site, plan: Plan) -> list[str]:
    choice = plan.get(site.key)
    chosen = (
        [choice.scheme, str(choice.bits), choice.calibrator, choice.granularity] if choice else ["float", "32", "", ""]
    )
    return [site.key, site.tensor, site.role.value, site.part.value, str(site.channels or "?"), *chosen]


def _distributions(q: Quantizer, plan: Plan, args: Namespace, out: Output) -> list[dict[str, Any]]:
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


def _figures(q: Quantizer, args: Namespace, out: Output) -> dict[str, Any]:
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
    figures = gather(
        found.model,
        found.structure,
        folded.model,
        folded.structure,
        folded.changes,
        lambda model, requests: engine.fill(requests, stage="figures", model=model),
    )
    write_atomic(
        args.figures, page(figures, model=args.model, recipe=q.config.recipe.name, samples=engine.source.name).encode()
    )
    out.say(f"\nfigures: {args.figures}")
    return {"path": str(args.figures), "above 0.01": {one.name: one.above for one in figures.attentions}}


def _sketch(seen: Histogram, width: int = 24) -> str:
    """A histogram in one line of block characters, logarithmic."""
    import numpy as np

    if not seen.count or seen.high <= seen.low:
        return ""
    centres = (np.arange(seen.bins) - seen.bins // 2 + 0.5) * seen.width
    place = np.clip(((centres - seen.low) / (seen.high - seen.low) * width).astype(int), 0, width - 1)
    heights = np.log1p(np.bincount(place, seen.counts, minlength=width))
    return "".join(BARS[int(np.ceil(h / heights.max() * (len(BARS) - 1)))] for h in heights)


def _cost(inspection: Prepared, plan: Plan, args: Namespace, out: Output) -> dict[str, Any]:
    from onnxptq.cli.samples import open_for
    from onnxptq.report.cost import cost, cost_tables

    args.samples = 1
    source = open_for(inspection.model, inspection.structure, args.calib or "synthetic", args)
    found = cost(inspection.model, inspection.structure, plan, next(iter(source)))
    out.say("\n" + cost_tables(found))
    return found.to_json()
