"""``onnxptq inspect``: the structure of a model, and the effect of a recipe on it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, writable
from onnxptq.cli.values import add_json, add_model, add_samples, add_target, size, threads
from onnxptq.errors import InputError
from onnxptq.targets.target import Target

if TYPE_CHECKING:
    import onnx

    from onnxptq.pipeline.stages import Prepared
    from onnxptq.plan import Plan
    from onnxptq.structure import Attention, Site


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_model(parser)
    add_target(parser, "the plan for this runtime, or which products of a quantized file it multiplies in integers")
    parser.add_argument("--cost", action="store_true", help="what is multiplied, and what is stored, by width")
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
    from onnxptq.cli.distributions import distributions, figures
    from onnxptq.cli.quantize import quantizer
    from onnxptq.report.text import table

    if (artifact := _artifact(args.model)) is not None:
        return _quantized(artifact, args, out)
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
        data["distributions"] = distributions(q, plan, args, out)
    if args.figures is not None:
        data["figures"] = figures(q, args, out)
    if args.cost:
        data["cost"] = _cost(q.prepared, plan, args, out)
    out.emit(data)
    return 0


def _artifact(path: str) -> onnx.ModelProto | None:
    """The message of a quantized file, else None."""
    from onnxptq.graph.quantized import is_quantized
    from onnxptq.graph.source import parse, readable

    with readable(path):
        proto = parse(path)[0]
        return proto if is_quantized(proto) else None


def _quantized(proto: onnx.ModelProto, args: Namespace, out: Output) -> int:
    """What a quantized file says about itself, and the products that a runtime multiplies in integers."""
    from onnxptq.graph.source import readable
    from onnxptq.report.introduction import introduced
    from onnxptq.report.text import table
    from onnxptq.targets.executed import executed

    words = introduced(proto)
    out.say(f"{args.model}: a quantized file" + ("" if words else " that does not say who wrote it"))
    for key, text in words.items():
        out.say(f"  {key:<13}{text}")
    target = Target.load(args.target or words.get("target") or "onnxruntime")
    with readable(args.model):
        found = executed(proto, target)
    rows = [[op, str(count), "integers"] for op, count in sorted(found.integer.items())]
    rows += [[op, str(count), "floats"] for op, count in sorted(found.floats.items())]
    out.say(
        f"\ntarget {target.name}, by {found.by}:\n" + table(["product", "number", "multiplied in"], rows, right=(1,))
    )
    for why, count in found.reasons.items():
        out.say(f"  {count} in floats: {why}")
    data = {"model": args.model, "introduction": words, "target": target.name, "products": asdict(found)}
    if args.cost:
        data["cost"] = _account(proto, args, out)
    out.emit(data)
    return 0


def _account(proto: onnx.ModelProto, args: Namespace, out: Output) -> dict[str, Any]:
    """What a quantized file multiplies, and the papers' accounting."""
    from onnxptq.cli.samples import open_for
    from onnxptq.graph.model import Model
    from onnxptq.graph.source import readable
    from onnxptq.report.accounting import account, account_tables
    from onnxptq.report.multiplied import File
    from onnxptq.structure import Structure

    args.samples = 1
    with readable(args.model):
        sample = next(iter(open_for(Model.from_proto(proto), Structure(), args.calib or "synthetic", args)))
        found = account(proto, File(proto, sample).products())
    out.say("\n" + account_tables(found))
    return found.to_json()


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


def _cost(inspection: Prepared, plan: Plan, args: Namespace, out: Output) -> dict[str, Any]:
    from onnxptq.cli.samples import open_for
    from onnxptq.report.cost import cost, cost_tables

    args.samples = 1
    source = open_for(inspection.model, inspection.structure, args.calib or "synthetic", args)
    found = cost(inspection.model, inspection.structure, plan, next(iter(source)))
    out.say("\n" + cost_tables(found))
    return found.to_json()
