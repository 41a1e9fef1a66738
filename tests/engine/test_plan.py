"""Plans: what they refuse, and that files hold them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merak.engine import Plan
from merak.pipeline.schedule import KINDS


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dp": 0}, "dp is 0; it must be 1 or more"),
        ({"microbatches": 2.5}, "microbatches is 2.5; it must be 1 or more"),
        ({"tp": 0}, "tp is 0; it must be 1 or more"),
        ({"tp": (2, 0), "pp": 2}, "tp is 0; it must be 1 or more"),
        ({"tp": (2, 1.5), "pp": 2}, "tp is 1.5; it must be 1 or more"),
        ({"tp": "2"}, "tp is '2'; it must be 1 or more"),
        ({"tp": (2, 1)}, "tp has 2 numbers; it must have one for each of 1 pipeline ranks, or be a number"),
        ({"tp": (1, 1), "pp": 2, "sequence_parallel": True}, "sequence_parallel is True and tp is 1"),
        ({"tp": (2, 1), "pp": 2, "sub_batches": 2}, "sub_batches is 2 and tp is (2, 1); it needs one tp for all"),
        ({"sequence_parallel": True}, "sequence_parallel is True and tp is 1; it divides over the ranks of tp"),
        ({"sequence_parallel": 1, "tp": 2}, "sequence_parallel is 1; it must be True or False"),
        ({"microbatches": True}, "microbatches is True; it must be 1 or more, a whole number"),
        ({"dp": "2"}, "dp is '2'; it must be 1 or more"),
        ({"stages": -2, "pp": 2}, "stages is -2; it must be 1 or more, a whole number (or None)"),
        ({"stages": 0, "pp": 2}, "stages is 0; it must be 1 or more"),
        ({"stages": 2.0, "pp": 2}, "stages is 2.0; it must be 1 or more"),
        ({"memory": "lots"}, "memory is 'lots'; it must be 0 or more bytes"),
        ({"memory": -5}, "memory is -5; it must be 0 or more bytes"),
        ({"memory": float("nan")}, "memory is nan; it must be 0 or more bytes"),
        ({"seed": "x"}, "seed is 'x'; it must be between -9223372036854775808 and 18446744073709551615"),
        ({"seed": 1.5}, "seed is 1.5; it must be between"),
        ({"seed": 2**70}, "seed is 1180591620717411303424; it must be between"),
        ({"schedule": 5}, "schedule is 5; it must be one of gpipe"),
        ({"schedule": None}, "schedule is None; it must be one of gpipe"),
        ({"schedule": ["1f1b"]}, "schedule is ['1f1b']; it must be one of gpipe"),
        ({"data_parallel": ["zero1"]}, "data_parallel is ['zero1']; it must be 'all-reduce', 'sparse' or 'zero1'"),
        ({"precision": None}, "precision is None; it must be 'fp32', 'bf16' or 'fp16'"),
        ({"recompute": None}, "recompute is None; it must be 'auto', a ratio, or a ratio for each stage"),
        ({"recompute": True}, "recompute is True; it must be 'auto'"),
        ({"recompute": ["a"]}, "recompute is ['a']; it must be 'auto'"),
        ({"recompute": float("nan")}, "recompute is nan; a ratio lies between 0 and 1"),
        ({"cuts": "l", "pp": 2}, "cuts is 'l'; it must be a sequence of names"),
        ({"cuts": 5, "pp": 2}, "cuts is 5; it must be a sequence of names"),
        ({"cuts": {"a": 1}, "pp": 2}, "cuts is {'a': 1}; it must be a sequence of names"),
        ({"keep": 7}, "keep is 7; it must be a sequence of names"),
        ({"schedule": "2f2b"}, "schedule is '2f2b'; it must be one of gpipe, 1f1b"),
        ({"pp": 2, "stages": 3}, "stages is 3; it must be a multiple of pp, which is 2"),
        ({"data_parallel": "zero3"}, "data_parallel is 'zero3'; it must be 'all-reduce', 'sparse' or 'zero1'"),
        ({"recompute": 1.5}, "recompute is 1.5; a ratio lies between 0 and 1"),
        ({"recompute": "always"}, "recompute is 'always'; it must be 'auto'"),
        ({"pp": 2, "recompute": (1.0,)}, "recompute has 1 ratios; there are 2 stages"),
        ({"pp": 2, "cuts": ("a", "b")}, "cuts has 2 names; 2 stages have 1"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text.split(";")[0])) as caught:
        Plan(**fields)
    assert text in str(caught.value)


def test_counts_of_ranks_and_stages() -> None:
    plan = Plan(dp=3, pp=2, schedule="interleaved")
    assert (plan.world_size, plan.n_stages) == (6, 4)
    assert Plan(schedule="zbv").n_stages == 2
    assert Plan(schedule="interleaved").n_stages == 1
    assert Plan(pp=2, schedule="interleaved", stages=6).n_stages == 6
    assert Plan(pp=3, recompute=0.5).recompute_of_stages() == [0.5] * 3
    assert Plan(pp=2, tp=(2, 2)) == Plan(pp=2, tp=2)
    assert Plan(dp=2, pp=3, tp=(4, 2, 1)).world_size == 14


@pytest.mark.parametrize("plan", [Plan(dp=3, tp=2, pp=2), Plan(dp=2, tp=(3, 1, 2), pp=3), Plan(tp=(1, 4), pp=2)])
def test_each_rank_has_a_place(plan: Plan) -> None:
    widths = [plan.tp] * plan.pp if isinstance(plan.tp, int) else plan.tp
    places = [(p, d, t) for p, width in enumerate(widths) for d in range(plan.dp) for t in range(width)]
    assert [plan.place_of(rank) for rank in range(plan.world_size)] == places
    with pytest.raises(ValueError, match="none beyond"):
        plan.place_of(plan.world_size)


@given(
    st.builds(
        Plan,
        dp=st.integers(1, 9),
        pp=st.integers(1, 9),
        microbatches=st.integers(1, 99),
        schedule=st.sampled_from(KINDS),
        recompute=st.just("auto") | st.floats(0, 1),
        data_parallel=st.sampled_from(["all-reduce", "zero1"]),
        memory=st.none() | st.integers(0, 2**40),
        seed=st.integers(-(2**63), 2**63),
    )
)
def test_json_holds_all_of_it(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


def test_files(tmp_path: Path) -> None:
    plan = Plan(pp=2, cuts=("layers.1",), recompute=(0.5, 1.0))
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.recompute_of_stages() == [0.5, 1.0]
    text = plan.to_json().replace("microbatches", "micro_batches")
    with pytest.raises(ValueError, match="a plan has no micro_batches"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "a plan in JSON is []; it must be an object"),
        ("null", "a plan in JSON is None; it must be an object"),
        ("5", "a plan in JSON is 5; it must be an object"),
        ("{", "this is no JSON"),
        ('{"pp": NaN}', "pp is nan; it must be 1 or more"),
        ('{"recompute": null}', "recompute is None; it must be"),
        ('{"bogus": 1}', "a plan has no bogus; its fields are dp, tp"),
    ],
)
def test_json_that_is_no_plan_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Plan.from_json(text)


def test_lists_become_tuples() -> None:
    text = '{"pp": 2, "tp": [2, 1], "cuts": ["a"], "keep": ["aten.mm"], "recompute": [0.5, 1]}'
    plan = Plan.from_json(text)
    assert (plan.tp, plan.cuts, plan.keep, plan.recompute) == ((2, 1), ("a",), ("aten.mm",), (0.5, 1))
    assert hash(plan) == hash(Plan(pp=2, tp=(2, 1), cuts=("a",), keep=("aten.mm",), recompute=(0.5, 1)))
    assert Plan.from_json(plan.to_json()) == plan


def test_every_field_is_said_to_mean_something() -> None:
    text = Plan.__doc__ or ""
    assert [field.name for field in dataclasses.fields(Plan) if f"{field.name}:" not in text] == []
