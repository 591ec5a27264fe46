"""A plan made before: its widths and folds, and what of it is stale."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.bits import Bits
from onnxptq.errors import InputError
from onnxptq.ops.uniform import UniformParams
from onnxptq.pipeline.config import RunConfig
from onnxptq.pipeline.given import adopted
from onnxptq.pipeline.stages import Prepared
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Role, Site, Structure
from tests.calibration.small import mlp

SITE = Site("w", "linear", Role.WEIGHT)
PREPARED = Prepared("m.onnx", 1, mlp(), Structure(sites=(SITE,)))


def plan(site: Site = SITE, **facts: str) -> Plan:
    params = UniformParams(4, np.float32(0.5), np.uint8(3))
    facts = {"recipe": "omse", "bits": "w4a4", "model": PREPARED.digest} | facts
    return Plan({site: Choice("uniform", "omse", 4, params=params)}, passes={"fold-bn": {}}, **facts)  # type: ignore[arg-type]


def test_widths_and_folds_are_the_plans() -> None:
    config, notes = adopted(RunConfig.of("auto", "w8a8", plan=plan(), exclude=("x",)), PREPARED)
    assert (config.bits, config.recipe.name, config.recipe.passes, config.exclude) == (
        Bits(4, 4),
        "omse",
        ("fold-bn",),
        (),
    )
    assert notes == ()
    assert config.plan is not None
    assert config.plan["linear:weight"].params is not None


def test_without_a_plan_nothing_changes() -> None:
    config = RunConfig.of("auto", "w8a8")
    assert adopted(config, PREPARED) == (config, ())


def test_parameters_of_another_model_are_found_anew() -> None:
    config, notes = adopted(RunConfig.of("auto", "w8a8", plan=plan(model="another")), PREPARED)
    assert config.plan is not None
    assert config.plan["linear:weight"].params is None
    assert config.plan.model == PREPARED.digest
    assert notes == ("plan: made for another model or other weights; all parameters are found anew",)
    strange = plan(Site("v", "other", Role.WEIGHT), model="another")
    with pytest.raises(InputError, match="site 'other:weight' is not in this model"):
        adopted(RunConfig.of("auto", "w8a8", plan=strange), PREPARED)


def test_folds_that_are_unknown() -> None:
    unknown = plan().about(passes={"fold-nb": {}})
    with pytest.raises(InputError, match="did you mean 'fold-bn'"):
        adopted(RunConfig.of("auto", "w8a8", plan=unknown), PREPARED)
