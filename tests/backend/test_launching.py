"""The page on launching over several hosts: its torchrun part is run, as printed, on the test bed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from benchmarks.testbed import Cluster, Topology, unavailable
from benchmarks.testbed.launch import host_environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "launching.md"
REASON = unavailable()


def blocks(language: str) -> list[str]:
    """The page's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_the_torchrun_commands_work_on_two_hosts(tmp_path: Path) -> None:
    [script] = [block for block in blocks("python") if block.startswith("# check_cluster.py")]
    (tmp_path / "check_cluster.py").write_text(script)
    [command] = [block for block in blocks("sh") if "torchrun" in block and "check_cluster.py" in block]
    with Cluster(Topology(hosts=2)) as cluster:
        environment = host_environment({"FIRST_HOST": cluster.topology.address(0)})
        # As in a user's shell: torchrun is on the path, and nothing tells Gloo or merak which interface to take.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        del environment["GLOO_SOCKET_IFNAME"]
        processes = [
            cluster.popen(host, ["bash", "-ec", command], env=environment | {"HOST": str(host)}, cwd=str(tmp_path))
            for host in range(2)
        ]
        printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    for rank, output in enumerate(printed):
        assert f"rank {rank} of 2: all ranks answered" in output
