"""What collectives cost on a cluster, beside the same played message by message."""

from __future__ import annotations

import pytest

from merak.planner.cluster import Cluster
from merak.planner.link import COLLECTIVES, Link
from tests.planner.clusters import PIECES, RINGS, alpha_beta, busiest_s, cases, messages_of, simulated_s

INSIDE, BETWEEN = Link(1e9, 1e-5), Link(1e8, 1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_bytes_are_those_that_the_busiest_link_carries(seed: int) -> None:
    for choice, cluster, kind, ranks in cases(40, seed):
        choice.shuffle(ranks)
        sharing, nbytes = choice.randint(1, 3), choice.uniform(1, 1e9)
        # Other devices of the same hosts do the same at the same time.
        copies = [one for copy in range(sharing) for one in messages_of(kind, nbytes, ranks, copy)]
        formula = cluster.linear_time(kind, ranks, sharing).seconds_per_byte * nbytes
        assert formula == pytest.approx(busiest_s(kind, cluster, copies)), (seed, kind, ranks, sharing)


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize(("hosts", "devices"), [(1, 6), (6, 1)])
def test_where_links_are_alike_formula_and_play_agree(kind: str, hosts: int, devices: int) -> None:
    cluster = Cluster.uniform("H100", hosts, devices, inside=INSIDE, between=BETWEEN)
    for ranks in ([1, 4],) if kind == "send" else ([1, 4], [0, 2, 3], list(range(6))):
        for nbytes in (0.0, 1e3, 1e6, 1e9):
            played = simulated_s(kind, cluster, messages_of(kind, nbytes, ranks))
            # A broadcast is not cut as finely as the formula has it.
            assert played == pytest.approx(
                cluster.seconds(kind, nbytes, ranks), rel=6 / PIECES if kind == "broadcast" else 1e-9
            )


@pytest.mark.parametrize("seed", range(5))
def test_large_messages_take_as_long_as_when_played(seed: int) -> None:
    for _, cluster, kind, ranks in cases(20, seed):
        # A broadcast is not cut as finely as the formula has it.
        messages, most = messages_of(kind, 1e12, ranks), 1 + (len(ranks) / PIECES if kind == "broadcast" else 1e-6)
        if kind == "all_to_all":  # all at once; a message still waits until both its sender and its receiver have time
            messages, most = [message._replace(after=()) for message in messages], 2.1
        played = simulated_s(kind, cluster, messages)
        assert 0.999 <= played / cluster.seconds(kind, 1e12, ranks) <= most, (seed, kind, ranks)


@pytest.mark.parametrize("seed", range(5))
def test_empty_messages_take_as_long_as_when_played(seed: int) -> None:
    for _, cluster, kind, ranks in cases(20, seed):
        messages = messages_of(kind, 0.0, ranks)
        played, formula = simulated_s(kind, cluster, messages), cluster.seconds(kind, 0.0, ranks)
        alphas = [alpha_beta(kind, message, cluster)[0] for message in messages]
        if kind == "all_to_all":  # which ranks wait for which differs from step to step
            assert formula - 1e-12 <= played <= (len(ranks) - 1) * max(alphas) + 1e-12, (seed, ranks)
        else:  # the mean of a ring's alphas, where the play leaves out its best edges
            assert abs(played - formula) <= max(alphas) * (2 if kind == "all_reduce" else 1) + 1e-12, (
                seed,
                kind,
                ranks,
            )


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_any_size_are_within_twice_of_those_played(seed: int) -> None:
    for choice, cluster, kind, ranks in cases(20, seed):
        if kind not in RINGS:
            continue
        nbytes = 10 ** choice.uniform(2, 8)
        messages = messages_of(kind, nbytes, ranks)
        alpha = max(alpha_beta(kind, message, cluster)[0] for message in messages)
        played, formula = simulated_s(kind, cluster, messages), cluster.seconds(kind, nbytes, ranks)
        assert played - 2 * alpha <= formula <= 2 * played + 2 * alpha, (seed, kind, ranks, nbytes)


def test_textbook_numbers() -> None:
    cluster = Cluster.uniform("H100", 4, 2, inside=Link(1e9, 0), between=Link(1e8, 0))
    everyone, a_host_each = range(8), [0, 2, 4, 6]
    assert cluster.seconds("all_reduce", 8e8, everyone) == pytest.approx(2 * 7 / 8 * 8)
    assert cluster.seconds("all_gather", 8e8, everyone) == pytest.approx(7 / 8 * 8)
    assert cluster.seconds("reduce_scatter", 8e8, a_host_each) == pytest.approx(3 / 4 * 8)
    assert cluster.seconds("all_gather", 8e8, a_host_each, sharing=2) == pytest.approx(2 * 3 / 4 * 8)
    assert cluster.seconds("all_gather", 8e8, [0, 1]) == pytest.approx(1 / 2 * 0.8)
    assert cluster.seconds("all_gather", 8e8, [0, 1], sharing=2) == pytest.approx(1 / 2 * 0.8)  # no host link
    assert cluster.seconds("all_to_all", 8e8, everyone) == pytest.approx(2 * 6 / 8 * 8)  # two ranks, to six each
    assert cluster.seconds("all_gather", 8e8, [0, 2, 1, 3]) == pytest.approx(3 / 4 * 2 * 8)  # crosses each link twice
    assert cluster.seconds("broadcast", 8e8, everyone) == pytest.approx(8)
    assert cluster.seconds("send", 8e8, [1, 2]) == pytest.approx(8)
    assert cluster.seconds("send", 8e8, [2, 3]) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", [kind for kind in COLLECTIVES if kind != "send"])
def test_a_rank_alone_takes_no_time(kind: str) -> None:
    assert Cluster.uniform("H100", 1, 2, inside="NVLink").seconds(kind, 1e9, [1]) == 0


def test_measured_alpha_and_beta_are_taken_for_their_collective_only() -> None:
    inside = Link(1e9, 1e-5, {"all_reduce": (3e-5, 2e-9)})
    cluster = Cluster.uniform("H100", 1, 4, inside=inside)
    assert cluster.seconds("all_reduce", 4e6, range(4)) == pytest.approx(6 * 3e-5 + 6e6 * 2e-9)
    assert cluster.seconds("all_gather", 4e6, range(4)) == pytest.approx(3 * 1e-5 + 3e6 * 1e-9)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("all-reduce", 1, [0, 1]), "'all-reduce' is no collective; expected one of all_reduce"),
        (("send", 1, [0, 1, 2]), r"send over \[0, 1, 2\]; expected two devices"),
        (("all_gather", 1, []), r"all_gather over \[\]; expected devices"),
        (("all_gather", 1, [1, 1]), r"all_gather over \[1, 1\]; expected devices, each of them once"),
        (("all_gather", 1, [0, 4]), "device 4: cluster '2 x 2 H100' has 4, numbered from 0"),
        (("all_gather", -1, [0, 1]), "nbytes is -1; expected bytes"),
        (("all_gather", 1, [0, 1], 0), "all_gather.sharing is 0; expected how many at once"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments: tuple[object, ...], text: str) -> None:
    cluster = Cluster.uniform("H100", 2, 2, inside="NVLink", between="100Gbit/s")
    with pytest.raises(ValueError, match=text):
        cluster.seconds(*arguments)  # type: ignore[arg-type]
