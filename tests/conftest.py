"""Shared by all tests: hypothesis profiles and the embedded models."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

os.environ.setdefault("ONNXPTQ_SPEED", "off")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only with `-m slow`; PyOps come last, since onnxruntime-extensions keeps them for good."""
    items.sort(key=lambda item: "test_pyops" in item.nodeid)
    if "slow" not in (config.getoption("-m") or ""):
        skip = pytest.mark.skip(reason="slow: run `make test-slow`")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def minis(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Small test models by name and exporter: exported once, kept in pytest's cache folder until their code changes."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from onnxptq.models import mini

    assert request.config.cache is not None
    folder = request.config.cache.mkdir("minis")
    return lambda name, exporter="torchscript", **options: mini.cached(name, folder, exporter=exporter, **options)
