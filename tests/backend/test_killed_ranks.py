"""When a rank is killed, all others raise at once, whatever their timeout, and name the operation and the dead rank."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.backend.killed import OPERATIONS, Outcome, kill_one, kill_one_under_torchrun

SIZE = 4
MOST_SECONDS = 5.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_outcomes(operation: str, victim: int, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.error == "DistNetworkError", outcome
        assert f"rank {victim}" in outcome.text, outcome
        assert operation in outcome.text, outcome
        assert outcome.seconds < MOST_SECONDS, outcome


def check(operation: str, victim: int, store_host: int, folder: Path) -> None:
    outcomes = kill_one(operation, size=SIZE, victim=victim, store_host=store_host, port=free_port(), folder=folder)
    check_outcomes(operation, victim, outcomes)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_killed_rank_is_named_by_all_others(operation: str, tmp_path: Path) -> None:
    check(operation, victim=2, store_host=0, folder=tmp_path)


@pytest.mark.parametrize("operation", ["broadcast", "all_reduce", "gather"])
def test_rank_zero_is_killed_and_with_it_the_store(operation: str, tmp_path: Path) -> None:
    check(operation, victim=0, store_host=0, folder=tmp_path)


@pytest.mark.parametrize("operation", ["all_reduce", "send/recv"])
def test_another_host_of_the_store_is_killed(operation: str, tmp_path: Path) -> None:
    check(operation, victim=3, store_host=3, folder=tmp_path)


@pytest.mark.parametrize(
    ("operation", "victim"), [("all_reduce", 2), pytest.param("broadcast", 0, marks=pytest.mark.slow)]
)
def test_under_the_agent_of_torchrun(operation: str, victim: int, tmp_path: Path) -> None:
    port = free_port()
    outcomes = kill_one_under_torchrun(operation, size=SIZE, victim=victim, port=port, folder=tmp_path)
    check_outcomes(operation, victim, outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("victim", range(SIZE))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_rank_in_any_operation(operation: str, victim: int, tmp_path: Path) -> None:
    check(operation, victim=victim, store_host=0, folder=tmp_path)
