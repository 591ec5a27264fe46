"""An existing plan applied to a model."""

from __future__ import annotations

from dataclasses import replace

from onnxptq.bits import Bits
from onnxptq.errors import InputError
from onnxptq.pipeline.config import RunConfig
from onnxptq.pipeline.stages import Prepared


def adopted(config: RunConfig, prepared: Prepared) -> tuple[RunConfig, tuple[str, ...]]:
    """The request with the widths and folds of its plan, and notes about the parts of the plan that are ignored.

    If the plan was made for another model, its sites must exist in this one, and all parameters are found anew.
    """
    plan = config.plan
    if plan is None:
        return config, ()
    notes = plan.notes
    if plan.model and plan.model != prepared.digest:
        known = {site.key for site in prepared.structure.sites}
        strange = [key for key in plan if key not in known]
        if strange:
            raise InputError(
                f"plan: site {strange[0]!r} is not in this model (and {len(strange) - 1} more); make the plan anew"
            )
        plan = plan.replace({key: replace(choice, params=None) for key, choice in plan.items()})
        plan = plan.about(model=prepared.digest)
        notes = ("plan: made for another model or other weights; all parameters are found anew",)
    plan = plan.about(**config.facts)
    bits = Bits.parse(plan.bits) if plan.bits else config.bits
    return replace(config, plan=plan, bits=bits, exclude=(), include=(), recipe=config.recipe.of(plan)), notes
