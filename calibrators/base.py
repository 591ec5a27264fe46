"""A calibrator is a generator: it asks for a summary, is answered, and returns the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar

from onnxptq.calibration.summary import Request, Summary
from onnxptq.ops.scheme import Params
from onnxptq.plan import Choice
from onnxptq.sites import Site

Search = Generator[Request, Summary, Params | None]
REGISTRY: dict[str, "Calibrator"] = {}


class Calibrator(ABC):
    """How the parameters of a site are found. Subclasses are registered by being defined."""

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(f"two calibrators are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}")
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def search(self, site: Site, choice: Choice) -> Search:
        """Yield requests (one walk over the samples each, in lock-step over all sites), return the parameters."""
