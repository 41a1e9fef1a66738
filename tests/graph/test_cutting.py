"""Cuts, as Python asks for them; that they are the best is shown by cut_stages_test.cpp."""

from __future__ import annotations

import dataclasses

import pytest

from merak.graph.cutting import Cut, DoesNotFitError, GraphCosts, NodeCost, Value, cut, uniform_recompute


def chain(nodes: int, saved_bytes: float = 10) -> GraphCosts:
    """Equal nodes: 3 seconds of work, a parameter of 4 bytes, a value of 2 bytes to the next."""
    return GraphCosts(
        nodes=tuple(NodeCost(1, 1, 1, saved_bytes, (i,)) for i in range(nodes)),
        values=tuple(Value(i, (i + 1,), 2) for i in range(nodes - 1)),
        parameter_bytes=(4,) * nodes,
        may_cut=(True,) * nodes,
    )


def test_balances_and_says_what_it_takes() -> None:
    found = cut(chain(12), 3, micro_batches=6)
    assert found.boundaries == (4, 8)
    assert found.recomputed == (0, 0, 0)
    assert found.step_s == pytest.approx(36 + 5 * 12)
    # 4 times the parameters, the input and what 3, 2 and 1 micro-batches save
    assert found.memory_bytes == (64 + 120, 64 + 4 + 80, 64 + 2 + 40)
    assert found.fits


def test_recomputes_the_least_that_fits_and_moves_nodes_to_where_less_is_recomputed() -> None:
    costs = chain(24)
    memory = 4 * 4 * 8 + 80 + 60
    found = cut(costs, 3, micro_batches=30, memory=memory)
    uniform = uniform_recompute(costs, 3, (8, 16), micro_batches=30, memory=memory)
    given = cut(costs, 3, micro_batches=30, memory=memory, boundaries=(8, 16))
    assert uniform.fits
    assert max(found.memory_bytes) <= memory
    assert found.step_s < given.step_s <= uniform.step_s
    assert found.recomputed[-1] == given.recomputed[-1] == 0


def test_ways_to_recompute() -> None:
    def recomputed(**ways: object) -> tuple[int, ...]:
        found: Cut = cut(chain(8), 2, micro_batches=4, boundaries=[4], **ways)  # type: ignore[arg-type]
        return found.recomputed

    assert recomputed() == (0, 0)
    assert recomputed(recompute="all") == (4, 4)
    assert recomputed(recompute="none") == (0, 0)
    assert recomputed(recompute=0.5) == (2, 2)
    assert recomputed(recompute=[1, 0.25]) == (4, 1)
    assert recomputed(recomputed_nodes=[3, 0]) == (3, 0)
    with pytest.raises(ValueError, match="no way to recompute called 'often'"):
        recomputed(recompute="often")


def test_several_stages_a_rank() -> None:
    found = cut(chain(16), 4, micro_batches=4, rank_of_stage=[0, 1, 0, 1], in_flight=[4, 3, 2, (1, 0)])
    assert found.boundaries == (4, 8, 12)
    assert found.period_s == (24, 24)
    assert [stage.rank for stage in found.stages] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="in_flight"):
        cut(chain(16), 4, rank_of_stage=[0, 1, 0, 1])


def test_says_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError) as raised:
        cut(chain(16), 2, micro_batches=8, memory=4 * 4 * 8 + 100, recompute="none")
    text = str(raised.value)
    assert "rank 0 misses" in text
    assert 'with recompute="auto"' in text
    assert "at most 1 micro-batch in flight" in text
    assert "stages in place of 2" in text
    assert not raised.value.cut.fits


def test_names_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="5 stages have 4 boundaries, but only 3 are allowed"):
        cut(chain(4), 5)
    with pytest.raises(ValueError, match="node 1 uses parameter 9 of 4"):
        cut(
            dataclasses.replace(
                chain(4), nodes=(NodeCost(1, 1, 1, 0), NodeCost(1, 1, 1, 0, (9,)), *chain(4).nodes[2:])
            ),
            2,
        )
    with pytest.raises(ValueError, match="boundary before node 2 is not allowed"):
        cut(dataclasses.replace(chain(4), may_cut=(True, True, False, True)), 2, boundaries=[2])
    with pytest.raises(ValueError, match="0 stages"):
        cut(chain(4), 0)
    with pytest.raises(ValueError, match="3 stages have 2 boundaries"):
        uniform_recompute(chain(4), 3, [1])


def test_explains_itself() -> None:
    found = cut(chain(24), 3, micro_batches=30, memory=4 * 4 * 8 + 140)
    lines = found.explain().splitlines()
    titles = ["stage", "rank", "nodes", "parameters", "work", "receive", "return", "memory", "recomputed"]
    assert lines[0].split() == titles
    assert len(lines) == 1 + 3 + 2
    assert lines[1].split()[:3] == ["0", "0", f"0-{found.boundaries[0] - 1}"]
    assert lines[-1].startswith("uniform stages")
