"""``onnxptq check``: a file against the documented rules of a runtime."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_json, add_target
from onnxptq.errors import InputError
from onnxptq.targets.target import Target

SHOWN = 3
"""Places named for each broken rule."""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", metavar="FILE", help="ONNX file, quantized by anything")
    add_target(parser, "the runtime it is for", required=True)
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """One line for each rule; an InputError if the file breaks one."""
    from onnxptq.graph.source import parse, readable
    from onnxptq.targets.rules import RULES, check

    target = Target.load(args.target)
    with readable(args.file):
        found = {one.rule.name: one for one in check(parse(args.file)[0], target.rules)}
    entries = []
    for name in target.rules:
        rule, places = RULES[name], found[name].places if name in found else ()
        out.say(f"{'broken' if places else 'kept':<8}{rule.text}  [{rule.source}]")
        for place in places[:SHOWN]:
            out.say(f"        {place}")
        if len(places) > SHOWN:
            out.say(f"        and {len(places) - SHOWN} more")
        entries.append({"rule": name, "text": rule.text, "source": rule.source, "broken": list(places)})
    if not target.rules:
        out.say(f"target {target.name}: no rules")
    out.emit({"file": args.file, "target": target.name, "rules": entries})
    if found:
        first = next(iter(found.values()))
        raise InputError(
            f"{args.file}: target {target.name} refuses it ({len(found)} rules broken): {first.rule.text}; "
            f"{first.places[0]}"
        )
    out.say(f"\n{args.file}: keeps every rule of target {target.name}; a static check, not a run")
    return 0
