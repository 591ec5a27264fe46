"""What a run is asked for, all of it known before any sample is looked at, and what watches over the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxptq.bits import Bits
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress, Silent, Titled
from onnxptq.errors import InputError, nearest
from onnxptq.lower import CONSTANTS, FORMATS, Constants, Format
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.report.stopwatch import Stopwatch


@dataclass(frozen=True)
class RunConfig:
    """The request: command line and Python API make the same one, and so the same file."""

    recipe: Recipe
    """With the settings of the user and those that the format asks for."""
    bits: Bits
    format: Format = "native"
    constants: Constants = "fp16"
    strict: bool = False
    """Fail where the format cannot express the recipe, instead of replacing codes."""
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    mask: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    """The settings of the user, for the report."""
    seed: int = 0
    threads: int | None = None
    memory_limit: int | None = None
    plan: Plan | None = None
    """A plan made before, used instead of what the recipe would decide."""

    @classmethod
    def of(
        cls,
        recipe: str | Path | Recipe,
        bits: str,
        *,
        format: str = "native",
        constants: str = "fp16",
        settings: Mapping[str, str] | None = None,
        **options: object,
    ) -> RunConfig:
        """Check the words of a request; a wrong one is an InputError."""
        for what, word, known in (("format", format, FORMATS), ("constants", constants, CONSTANTS)):
            if word not in known:
                raise InputError(f"unknown {what} {word!r}{nearest(str(word), known)}; use one of {', '.join(known)}")
        loaded = Recipe.load(recipe)
        given = dict(settings or {})
        return cls(
            Recipe.load(loaded, loaded.suited(format) | given),
            Bits.parse(bits),
            format=format,  # type: ignore[arg-type]
            constants=constants,  # type: ignore[arg-type]
            settings=given,
            **options,  # type: ignore[arg-type]
        )

    def by(self, recipe: Recipe) -> RunConfig:
        """The same request by another recipe."""
        return replace(self, recipe=Recipe.load(recipe, recipe.suited(self.format)), plan=None)


@dataclass(frozen=True)
class RunContext:
    """Progress, times and checkpoints of a run. Nothing in it changes a result."""

    progress: Progress = field(default_factory=Silent)
    watch: Stopwatch = field(default_factory=Stopwatch)
    folder: Path | None = None
    """Where what is found is kept, so that a killed run can go on."""
    resume: bool = False
    checkpoint: Checkpoint | None = None

    def opened(self, identity: Mapping[str, str]) -> RunContext:
        """With its checkpoint, which belongs to runs of this identity."""
        if self.folder is None:
            return self
        return replace(self, checkpoint=Checkpoint(self.folder, identity, resume=self.resume))

    def within(self, name: str) -> RunContext:
        """For a part of the run under its own name: its stages are not listed one by one."""
        folder = self.folder / name if self.folder is not None else None
        return RunContext(Titled(name, self.progress), Stopwatch(), folder, self.resume)
