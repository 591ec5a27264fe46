"""Mutated models: each is refused with one line, or computes the same outputs as the original."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import ALLOWED, campaign
from tests.fuzz.mutator import KINDS, mutant
from tests.fuzz.seeds import NAMES


def run(stage: str, first: int, count: int, *, step: int = 1) -> None:
    ends, bad = campaign(stage, first, count, step=step)
    assert sum(ends.values()) == count
    assert not set(bad) - ALLOWED, "\n".join(f"{end}: {case}" for end, cases in bad.items() for case in cases)
    assert ends["right"] > count // 20  # most mutations break a model; some must not
    assert ends["refused"] > count // 4
    assert ends["refused as unreadable"] <= count // 50 + 1


def test_mutations_are_many_and_seeded() -> None:
    assert len(KINDS) > 100
    assert mutant(12345)[2] == mutant(12345)[2]
    kinds = {mutant(number)[0].split()[1] for number in range(len(KINDS) * len(NAMES))}
    assert kinds == set(KINDS)


def test_a_short_run() -> None:
    run("load", 0, 133, step=7)


@pytest.mark.slow
def test_a_long_run_of_the_reader() -> None:
    run("load", 100_000, 20_000)


@pytest.mark.slow
def test_a_long_run_of_the_quantizer() -> None:
    run("quantize", 200_000, 1_000)
