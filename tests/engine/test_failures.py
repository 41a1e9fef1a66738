"""When a rank of a pipeline is killed, all others raise at once, and say where they were."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.backend.killed import kill_one

SIZE = 4
MOST_SECONDS = 5.0


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_is_named_with_stage_action_and_peer(victim: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    outcomes = kill_one("train_step", size=SIZE, victim=victim, store_host=1, port=port, folder=tmp_path)
    assert len(outcomes) == SIZE - 1
    for outcome in outcomes:
        assert outcome.error == "DistNetworkError", outcome
        assert outcome.seconds < MOST_SECONDS, outcome
        # Between two pipelines a step has sums over all ranks.
        action = r"action \w+ of micro-batch \d+(, peer stage \d+ on pipeline rank \d+)?"
        place = rf"({action}|step \d+, summing|step \d+, counting)"
        assert re.match(rf"stage {outcome.rank}, {place}", outcome.text), outcome
