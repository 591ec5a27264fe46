"""Replace schemes that QDQ cannot express by static uniform ones before weights are solved."""

from __future__ import annotations

from dataclasses import replace

from onnxptq.calibration.engine import Engine
from onnxptq.calibrators.base import searches
from onnxptq.lower import qdq
from onnxptq.pipeline.config import RunConfig
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role


def expressible(plan: Plan, config: RunConfig, engine: Engine) -> tuple[Plan, tuple[str, ...]]:
    """Replace choices that the format cannot express; return the plan and a note, or with ``strict`` an error."""
    keys = [key for key in qdq.inexpressible(plan) if plan.sites[key].role is not Role.WEIGHT]
    if config.format != "qdq" or not keys:
        return plan, ()
    if config.strict:
        raise qdq.refusal(plan, keys)
    static = {key: _static(config, plan, key) for key in keys}
    found = engine.drive(searches(static, plan.sites), stage="static codes for format qdq")
    note = f"format qdq: {qdq.words(plan, keys)}; static uniform codes stand in"
    return plan.replace({key: choice for choices in found.values() for key, choice in choices.items()}), (note,)


def _static(config: RunConfig, plan: Plan, key: str) -> Choice:
    """A static uniform choice: the recipe's own, or by squared error if a given plan asked for another scheme."""
    wanted = config.recipe.choice(plan.sites[key], plan[key].bits)
    if config.plan is not None and (wanted.scheme, wanted.granularity) == ("uniform", "tensor"):
        return wanted
    return replace(wanted, scheme="uniform", calibrator="omse", granularity="tensor", options={}, params=None)
