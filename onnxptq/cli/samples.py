"""Samples for subcommands that run a model without quantizing it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxptq.calibration.sources.source import Source
    from onnxptq.graph.model import Model
    from onnxptq.structure import Structure


SYNTHETIC = "synthetic samples: real ones say more; give a folder"


def open_for(model: Model, structure: Structure, spec: str, args: Namespace) -> Source:
    """The samples of ``spec`` for the inputs of ``model``."""
    from onnxptq.calibration.sources.inputs import input_specs
    from onnxptq.calibration.sources.opening import open_source

    return open_source(
        spec,
        inputs=input_specs(model, masks=structure.masks),
        samples=args.samples,
        preprocess=args.preprocess,
        seed=args.seed,
        draw=args.draw,
        shapes=dict(args.shape),
    )


def found_in(path: str, args: Namespace) -> tuple[Model, Structure]:
    """A model in canonical form, and its structure."""
    from onnxptq.graph.canonical import canonicalise
    from onnxptq.graph.load import load
    from onnxptq.structure import discover

    model = canonicalise(load(path, shapes=dict(args.shape)))
    return model, discover(model, mask=getattr(args, "mask", None), roles=dict(getattr(args, "role", ())))
