"""The request of a run, complete before any sample is read, and the run's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxptq.bits import Bits
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress, Silent, Titled
from onnxptq.datasets.draw import How
from onnxptq.errors import InputError, nearest
from onnxptq.lower import CONSTANTS, FORMATS, Constants, Format
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.report.stopwatch import Stopwatch
from onnxptq.structure import Role
from onnxptq.targets.target import Target
from onnxptq.workers import HERE, Workers

LARGEST_WISH = 100
"""Most points of mask agreement that can be lost; more decibels than any codes of 8 bits reach."""


@dataclass(frozen=True)
class RunConfig:
    """The request. Command line and Python API make the same one, and so the same file."""

    recipe: Recipe
    """The recipe with the user's settings, and those of the format and the target."""
    bits: Bits
    format: Format = "native"
    target: Target | None = None
    """The runtime that the file is for."""
    constants: Constants = "fp16"
    strict: bool = False
    """Fail if the format cannot express the recipe, instead of replacing schemes."""
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    mask: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    """The user's settings, for the report."""
    seed: int = 0
    draw: How = "random"
    """How samples are taken from a source that has more."""
    threads: int | None = None
    memory_limit: int | None = None
    plan: Plan | None = None
    """An existing plan, used instead of the recipe's decisions."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """Widths of single sites, by key; the others have ``bits``."""
    max_size: int | None = None
    """Most bytes of the file."""
    max_loss: float | None = None
    """Most points of mask agreement that may be lost."""
    min_sqnr: float | None = None
    """Least SQNR of the outputs, dB."""

    @property
    def mixed(self) -> bool:
        """Whether each site gets a width of its own."""
        wishes = (self.bits.average, self.max_size, self.max_loss, self.min_sqnr)
        return self.plan is None and not self.widths and any(wish is not None for wish in wishes)

    @property
    def judged(self) -> bool:
        """Whether a quality is wished for, which samples of the selection decide."""
        return self.max_loss is not None or self.min_sqnr is not None

    @property
    def widths_in_words(self) -> str:
        """The widths, for people: those of a wish for size or quality are at most ``bits``."""
        wished = self.plan is None and (self.judged or self.max_size is not None)
        return f"mixed widths up to {self.bits}" if wished else str(self.bits)

    @property
    def facts(self) -> dict[str, str]:
        """What a plan says about the file that it was made for."""
        return {"target": self.target.name if self.target is not None else "", "written": self.format}

    @classmethod
    def of(
        cls,
        recipe: str | Path | Recipe,
        bits: str,
        *,
        format: str | None = None,
        target: str | None = None,
        constants: str = "fp16",
        settings: Mapping[str, str] | None = None,
        **options: object,
    ) -> RunConfig:
        """Parse a request; an InputError if it is invalid. A target decides the format, a plan both unless given."""
        plan = options.get("plan")
        if isinstance(plan, Plan) and target is None and format is None:
            target, format = (plan.target, None) if plan.target else (None, plan.written or None)
        wanted = Target.load(target) if target is not None else None
        if wanted is not None and format not in (None, wanted.format):
            raise InputError(
                f"format {format}: target {wanted.name} is written as format {wanted.format}; leave the format out"
            )
        format = format or (wanted.format if wanted is not None else "native")
        for what, word, known in (("format", format, FORMATS), ("constants", constants, CONSTANTS)):
            if word not in known:
                raise InputError(f"unknown {what} {word!r}{nearest(str(word), known)}; use one of {', '.join(known)}")
        for option in ("max_loss", "min_sqnr"):
            wish = options.get(option)
            if wish is not None and not 0 <= wish <= LARGEST_WISH:  # type: ignore[operator]
                name = f"--{option.replace('_', '-')}"
                raise InputError(f"{name} {wish}: give a number from 0 to {LARGEST_WISH}")
        given, widths = dict(settings or {}), Bits.parse(bits)
        if wanted is not None:
            wanted.require(widths)
        return cls(
            suited(Recipe.load(recipe), format, wanted, widths, given),
            widths,
            format=format,  # type: ignore[arg-type]
            target=wanted,
            constants=constants,  # type: ignore[arg-type]
            settings=given,
            **options,  # type: ignore[arg-type]
        )

    @property
    def stages(self) -> list[str]:
        """The stages of a run, in order, for its progress."""
        compared = self.recipe.selection if self.plan is None else ()
        return [
            *(["passes"] if self.recipe.passes else []),
            *("calibration", "weights"),
            *(self.comparing(entry) for entry in compared),
            *(["selection"] if compared else []),
            *(["guard"] if self.recipe.guard is not None and self.plan is None else []),
            *("lower", "verify", "measure"),
        ]

    def comparing(self, entry: str) -> str:
        """The stage that solves a candidate of the selection."""
        return f"{self.candidate(entry)}, to compare"

    def candidate(self, entry: str) -> str:
        """The name of a candidate of the selection."""
        return self.recipe.name + entry if entry.startswith("+") else entry

    def by(self, recipe: Recipe) -> RunConfig:
        """The same request with another recipe; sites that this one does not have get its narrowest width."""
        bits = self._narrowest()
        return replace(self, recipe=suited(recipe, self.format, self.target, bits), bits=bits, plan=None)

    def _narrowest(self) -> Bits:
        """The narrowest width of weights and of activations."""
        weights = [width for key, width in self.widths.items() if key.endswith(f":{Role.WEIGHT}")]
        others = [width for key, width in self.widths.items() if not key.endswith(f":{Role.WEIGHT}")]
        narrow = min(weights, default=self.bits.weights), min(others, default=self.bits.activations)
        return replace(self.bits, weights=narrow[0], activations=narrow[1])


def suited(
    recipe: Recipe, format: str, target: Target | None, bits: Bits, settings: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe with codes that the format can express and the target takes, so that weights correct their errors.

    The user's settings come last: the target refuses those that contradict it.
    """
    given = settings or {}
    loaded = Recipe.load(recipe, {key: value for key, value in recipe.suited(format).items() if key not in given})
    return Recipe.load(target.suited(loaded, bits) if target is not None else loaded, given)


@dataclass(frozen=True)
class RunContext:
    """Progress, times and checkpoints of a run. Nothing in it changes a result."""

    progress: Progress = field(default_factory=Silent)
    watch: Stopwatch = field(default_factory=Stopwatch)
    folder: Path | None = None
    """The folder of checkpoints, so that a killed run can resume."""
    resume: bool = False
    checkpoint: Checkpoint | None = None
    workers: Workers = HERE
    """Where models run on samples."""

    def opened(self, identity: Mapping[str, str]) -> RunContext:
        """The context with its checkpoint, for runs of this identity."""
        if self.folder is None:
            return self
        return replace(self, checkpoint=Checkpoint(self.folder, identity, resume=self.resume))

    def within(self, name: str) -> RunContext:
        """The context of a part of the run under its own name: its stages are not listed separately."""
        folder = self.folder / name if self.folder is not None else None
        return RunContext(Titled(name, self.progress), Stopwatch(), folder, self.resume, workers=self.workers)
