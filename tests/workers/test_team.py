"""A team answers alike wherever its members are; one that dies is replaced in the same state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxptq.errors import InputError
from onnxptq.workers import HERE, Team, Workers, opened
from tests.workers.counter import Counter


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    with opened(2) as workers:
        yield workers


def test_without_options_the_worker_is_this_process() -> None:
    with opened() as workers:
        assert workers is HERE
        with Team(workers, Counter, most=9) as team:
            assert set(team.ask("process", range(3))) == {os.getpid()}


def test_answers_come_in_order_and_do_not_depend_on_the_workers(processes: Workers) -> None:
    for workers in (HERE, processes):
        with Team(workers, Counter, most=100) as team:
            assert list(team.ask("add", range(7), 5, changes=True)) == list(range(7))
            assert list(team.ask("double", range(3, 10))) == [2 * i + 5 for i in range(3, 10)]
            assert list(team.ask("double", range(0))) == []


def test_processes_are_kept_and_used_by_turns(processes: Workers) -> None:
    pids = []
    for _ in range(2):
        with Team(processes, Counter, most=100) as team:
            pids.append(list(team.ask("process", range(4))))
    assert set(pids[0]) == set(pids[1])
    assert pids[0][0] == pids[0][2] != pids[0][1] == pids[0][3]
    with Team(processes, Counter, most=1) as team:
        assert len(set(team.ask("process", range(4)))) == 1


@pytest.mark.parametrize("changes", [False, True])
def test_a_worker_that_is_killed_is_replaced(processes: Workers, tmp_path: Path, changes: bool) -> None:
    flag = tmp_path / "flag"
    with Team(processes, Counter, most=100) as team:
        list(team.ask("add", range(9), 5, changes=True))
        assert list(team.ask("die", range(9), 4, flag, changes=changes)) == [2 * i + 5 for i in range(9)]
        assert flag.exists()
        assert list(team.ask("double", range(9))) == [2 * i + 5 for i in range(9)]


def test_a_sample_that_always_kills_is_named(processes: Workers) -> None:
    known = r"3 times on sample [024] or just after it \(ended by SIGKILL\)"
    with Team(processes, Counter, most=100) as team, pytest.raises(InputError, match=known):
        list(team.ask("die", range(9), 4, None))


def test_errors_are_those_of_the_first_sample(processes: Workers) -> None:
    for workers in (HERE, processes):
        with Team(workers, Counter, most=100) as team, pytest.raises(FileNotFoundError, match="sample 3"):
            list(team.ask("fail", range(9), 3))
        with Team(workers, Counter, most=100) as team:
            assert list(team.ask("double", range(3))) == [0, 2, 4]


def test_what_cannot_be_sent_is_an_error_of_one_line(processes: Workers) -> None:
    with pytest.raises(InputError, match="cannot be sent to another process"), Team(processes, lambda: 0, most=1):
        pass


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(InputError, match="use processes, ray or ray:ADDRESS"), opened(2, "dask"):
        pass


@pytest.mark.slow
def test_ray_answers_alike(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for count in (1, 2, 3):
        with opened(count, "ray") as workers, Team(workers, Counter, most=100) as team:
            list(team.ask("add", range(9), 5, changes=True))
            assert list(team.ask("double", range(3, 9))) == [2 * i + 5 for i in range(3, 9)]
            assert list(team.ask("die", range(9), 4, tmp_path / str(count))) == [2 * i + 5 for i in range(9)]
            with pytest.raises(FileNotFoundError, match="sample 3"):
                list(team.ask("fail", range(9), 3))
