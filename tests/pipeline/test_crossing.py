"""Shares of what crosses from one team of ranks to another: each element once, and every receiver gets all of them."""

from __future__ import annotations

import random

import pytest
import torch

from merak.pipeline.crossing import LEAST_BYTES, is_shared, legs, share_of


@pytest.mark.parametrize("seed", range(40))
def test_receivers_can_put_together_what_was_sent_once(seed: int) -> None:
    draw = random.Random(seed)
    senders, receivers = draw.randint(1, 5), draw.randint(1, 5)
    elements = LEAST_BYTES // 4 + draw.randint(0, 40)
    print(f"seed {seed}: {elements} elements from {senders} to {receivers}")
    values, sent = torch.arange(elements), torch.zeros(elements)
    length = share_of(elements, receivers) if is_shared(elements, 4, receivers) else elements
    rooms = [torch.full((length,), -1) for _ in range(receivers)]
    for leg in legs(elements, 4, senders, receivers):
        sent[leg.begin : leg.end] += 1
        begin = leg.receiver * length if receivers > 1 else 0
        rooms[leg.receiver][leg.begin - begin : leg.end - begin] = values[leg.begin : leg.end]
    assert torch.equal(torch.cat(rooms)[:elements], values)
    assert torch.equal(sent, torch.ones(elements)), "each element crosses once"


@pytest.mark.parametrize(("senders", "receivers"), [(1, 1), (3, 3), (2, 4), (4, 2), (3, 1), (1, 3)])
def test_senders_have_equal_work(senders: int, receivers: int) -> None:
    elements = 12 * LEAST_BYTES
    loads = [0] * senders
    for leg in legs(elements, 4, senders, receivers):
        loads[leg.sender] += leg.end - leg.begin
    assert loads == [elements // senders] * senders


@pytest.mark.parametrize(("senders", "receivers"), [(1, 1), (3, 3), (2, 4), (4, 2), (3, 1)])
def test_small_values_go_whole_to_everyone(senders: int, receivers: int) -> None:
    elements = LEAST_BYTES // 4 - 1
    found = legs(elements, 4, senders, receivers)
    assert [(leg.receiver, leg.begin, leg.end) for leg in found] == [(one, 0, elements) for one in range(receivers)]
    assert {leg.sender for leg in found} == set(range(min(senders, receivers)))
    assert not is_shared(elements, 4, receivers)


def test_nothing_crosses_as_nothing() -> None:
    assert [leg.end for leg in legs(0, 4, 2, 3)] == [0, 0, 0]
