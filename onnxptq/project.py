"""A project: models, samples, targets and promises in one TOML file, from which ``onnxptq run`` makes all files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxptq.arguments import texts
from onnxptq.bits import Bits
from onnxptq.datasets.specs import is_named
from onnxptq.errors import InputError, nearest
from onnxptq.files import parse_toml, read_text, reading, require
from onnxptq.graph.size import source_files
from onnxptq.recipe import Recipe
from onnxptq.targets.target import Target
from onnxptq.version import __version__

FIELDS: Mapping[str, tuple[type, str]] = {
    "path": (str, ""),
    "samples": (str, "--calib"),
    "limit": (int, "--samples"),
    "targets": (list, "--target"),
    "bits": (str, "--bits"),
    "recipe": (str, "--recipe"),
    "settings": (dict, "--set"),
    "exclude": (list, "--exclude"),
    "preprocess": (str, "--preprocess"),
    "max_size": (str, "--max-size"),
    "max_loss": (float, "--max-loss"),
    "min_sqnr": (float, "--min-sqnr"),
}
"""Fields of a model: type, and the option of ``quantize`` that it becomes."""


@dataclass(frozen=True)
class Job:
    """One file to make."""

    model: Path
    samples: str
    output: Path
    target: str
    argv: tuple[str, ...]
    """The command line after ``onnxptq`` that makes the file; its outputs are beside ``output``."""

    @property
    def page(self) -> Path:
        """The report of the file."""
        return self.output.with_suffix(".html")

    def key(self) -> str:
        """Hash of all that decides the file: contents of the model and the samples, options, version."""
        held = hashlib.sha256(repr((__version__, self.argv)).encode())
        for path in (*source_files(self.model), *_files(self.samples)):
            held.update(path.name.encode(errors="surrogateescape") + hashlib.sha256(path.read_bytes()).digest())
        return held.hexdigest()


@dataclass(frozen=True)
class Project:
    """What a project file asks for."""

    path: Path
    output: Path
    """The folder of all files."""
    jobs: tuple[Job, ...]

    @classmethod
    def load(cls, path: Path) -> Project:
        """Read and check a project file; its paths are relative to its folder."""
        with reading(path, "cannot be read; `onnxptq init` writes one"):
            text = read_text(path)
        with reading(path, "not valid TOML"):
            data = parse_toml(text)
        _known(path, data, ("output", "models"), "the project")
        output = path.parent / require(data.get("output", "quantized"), str, f"{path}: output")
        jobs: dict[Path, Job] = {}
        for number, given in enumerate(require(data.get("models", []), list, f"{path}: models"), 1):
            where = f"{path}: model {number}"
            for job in _jobs(path.parent, output, require(given, dict, where), where):
                if job.output in jobs:
                    raise InputError(f"{where}: {job.output.name} is made twice; give the models other names")
                jobs[job.output] = job
        if not jobs:
            raise InputError(f"{path}: no model in it; add [[models]] with path and samples")
        return cls(path, output, tuple(jobs.values()))


def _known(path: object, data: Mapping[str, Any], fields: Mapping[str, Any] | tuple[str, ...], what: str) -> None:
    for key in data:
        if key not in fields:
            raise InputError(f"{path}: {what} has no field {key!r}{nearest(key, fields)}")


def _jobs(folder: Path, output: Path, given: Mapping[str, Any], where: str) -> Iterator[Job]:
    """The files of one model, one for each target."""
    _known(where, given, FIELDS, "a model")
    for name, value in given.items():
        kind = FIELDS[name][0]
        if kind is not float:
            require(value, kind, f"{where}: {name}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{where}: {name}: give a number, not {value!r}")
    if "path" not in given:
        raise InputError(f"{where}: path is missing")
    model, samples = folder / given["path"], given.get("samples", "synthetic")
    if not model.is_file():
        raise InputError(f"{where}: {model}: no such file")
    if samples != "synthetic" and not is_named(samples):
        samples = str(folder / samples)
        if not Path(samples).exists():
            raise InputError(f"{where}: samples {samples}: no such file or folder")
    bits, recipe = given.get("bits", "w8a8"), given.get("recipe", "auto")
    recipe = str(folder / recipe) if recipe.endswith(".toml") else recipe
    settings = texts(given.get("settings"))
    Recipe.load(recipe, settings)
    for target in given.get("targets", ["onnxptq"]):
        Target.load(target).require(Bits.parse(bits))
        name = f"{model.name.removesuffix('.onnx')}.{bits.replace(':', '')}.{target}"
        file = output / f"{name}.onnx"
        options = {"--calib": samples, "--bits": bits, "--recipe": recipe, "--target": target}
        for field in ("limit", "preprocess", "max_size", "max_loss", "min_sqnr"):
            if field in given:
                options[FIELDS[field][1]] = str(given[field])
        argv = ["quantize", str(model), "-o", str(file), "--plan-out", str(output / f"{name}.plan.json")]
        argv += ["--report", str(output / f"{name}.html")]
        argv += [word for option in options.items() for word in option]
        argv += [word for pair in settings.items() for word in ("--set", "=".join(pair))]
        argv += [word for pattern in given.get("exclude", []) for word in ("--exclude", str(pattern))]
        yield Job(model, samples, file, target, tuple(argv))


def _files(samples: str) -> list[Path]:
    """The files of samples; none for those named in a word."""
    path = Path(samples)
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    return [path] if path.is_file() else []
