"""What a pass is, and how passes are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxptq.calibration.summary import Request, Summary
from onnxptq.graph.model import Model
from onnxptq.sites import Structure

REGISTRY: "dict[str, Pass]" = {}
Asking = Generator[Mapping[str, Request], Mapping[str, Summary], list["Change"]]


@dataclass(frozen=True)
class Change:
    """One thing a pass did, for the report."""

    pass_name: str
    where: str
    what: str


class Pass(ABC):
    """An equivalence pass. Subclasses are registered by being defined.

    ``run`` is a generator: it may yield requests for statistics (name -> which tensor, which empty summary), is answered
    with the filled summaries, changes the model in place, and returns its changes; [] means there was nothing to do.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """Option names with defaults; set by recipes and ``--set``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(f"two passes are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}")
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """Change ``model``; see the class."""
