"""``onnxptq run``: all files of a project, made where something changed."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, folder
from onnxptq.cli.values import add_json, threads
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.project import Job

STATE = "onnxptq-run.json"
PROMISES = ("--max-size", "--max-loss", "--min-sqnr")


class Kept(Output):
    """Holds the report of a file instead of printing it."""

    data: Mapping[str, Any]

    def emit(self, data: Mapping[str, Any]) -> None:
        """Keep it."""
        self.data = data


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "project", metavar="FILE", nargs="?", default="onnxptq.toml", help="project file (default onnxptq.toml)"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Make what is new or changed, then the page; an InputError at the end if a promise is broken."""
    from onnxptq.graph.save import write_atomic
    from onnxptq.project import Project

    project = Project.load(Path(args.project))
    with folder(project.output):
        place = project.output / STATE
        state = _state(place)
        done: dict[str, dict[str, Any]] = {}
        for job in project.jobs:
            key, before = job.key(), state.get(job.output.name, {})
            if before.get("key") == key and before.get("digest") == _digest(job.output) and job.page.is_file():
                out.say(f"{job.output}: unchanged")
            else:
                state[job.output.name] = {"started": key}
                write_atomic(place, json.dumps(state, indent=1))
                state[job.output.name] = _made(job, args, out, resume=before.get("started") == key) | {"key": key}
                write_atomic(place, json.dumps(state, indent=1))
            done[job.output.name] = state[job.output.name]
        index = project.output / "index.html"
        write_atomic(index, _page(project.path, project.jobs, done).encode(errors="backslashreplace"))
    out.say(f"{index}: {len(done)} file{'s' if len(done) > 1 else ''}")
    out.emit({"project": str(project.path), "page": str(index), "files": done})
    broken = [f"{name}: {one}" for name, held in done.items() for one in held["broken"]]
    if broken:
        raise InputError(f"{project.path}: a promise is not kept: {broken[0]}")
    return 0


def _state(place: Path) -> dict[str, Any]:
    """What earlier runs made; nothing if the file is missing or damaged."""
    try:
        held = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in held.items() if isinstance(v, dict)} if isinstance(held, dict) else {}


def _digest(path: Path) -> str | None:
    """Hash of a file and of its external data; None where there is none."""
    import hashlib

    if not path.is_file():
        return None
    data = path.with_name(f"{path.name}.data")
    held = hashlib.sha256(path.read_bytes())
    held.update(data.read_bytes() if data.is_file() else b"")
    return held.hexdigest()


def _made(job: Job, args: Namespace, out: Output, *, resume: bool) -> dict[str, Any]:
    """Quantize one model, as the command line would, and what to remember of it."""
    from onnxptq.cli import parser, quantize
    from onnxptq.report.answer import accuracy
    from onnxptq.report.data import Report

    threads_ = ["--threads", str(args.threads)] if args.threads else []
    kept = Kept(json=out.json)
    quantize.run(parser().parse_args([*job.argv, *threads_, *(["--resume"] if resume else [])]), kept)
    out.say()
    report = Report.from_json(kept.data)
    return {
        "digest": _digest(job.output),
        "before": report.sizes.before,
        "after": report.sizes.after,
        "accuracy": accuracy(report),
        "broken": [one for one in report.warnings if one.startswith(PROMISES)],
    }


def _page(path: Path, jobs: tuple[Job, ...], done: Mapping[str, Mapping[str, Any]]) -> str:
    from onnxptq.report.pages import render
    from onnxptq.report.text import megabytes

    rows = []
    for job in jobs:
        held = done[job.output.name]
        sizes = f"{megabytes(held['before'])} to {megabytes(held['after'])}"
        rows.append((job.output.name, job.page.name, job.model.name, job.target, sizes, held["accuracy"]))
    return render("project.html.j2", title=f"{path} - onnxptq", project=path.name, rows=rows)
