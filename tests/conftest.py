"""Shared by all tests: hypothesis profiles and the embedded models."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only when asked for by `-m slow`."""
    if "slow" not in (config.getoption("-m") or ""):
        skip = pytest.mark.skip(reason="slow: run `make test-slow`")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
