from __future__ import annotations

from onnxptq.machine import available, cores


def test_the_machine_has_memory_and_cores() -> None:
    assert available() > 2**20
    assert cores() >= 1
