"""Nested values taken apart and built again."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding
from transformers.modeling_outputs import CausalLMOutput

from merak.graph.trees import flatten, map_leaves, rebuild


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Record:
    first: Any
    second: Any = None
    size: int = dataclasses.field(init=False, default=2)


KEYS = st.text("abc_", min_size=1, max_size=3)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Record, inner, inner),
    )


TREES = st.recursive(LEAVES, containers, max_leaves=12)


@settings(deadline=None)
@given(TREES)
def test_what_is_taken_apart_can_be_built_again(tree: Any) -> None:
    flat = flatten(tree)
    assert len(flat.paths) == len(flat.leaves) == len(set(flat.paths))
    again = rebuild(flat.template, flat.leaves)
    assert again == tree
    assert type(again) is type(tree)


@settings(deadline=None)
@given(TREES)
def test_only_leaves_differ_when_others_are_put_in(tree: Any) -> None:
    flat = flatten(tree)
    other = rebuild(flat.template, [("leaf", index) for index in range(len(flat.leaves))])
    numbers = iter(range(len(flat.leaves)))
    assert map_leaves(lambda _: ("leaf", next(numbers)), tree) == other


def test_paths_say_the_way() -> None:
    tree = {"past": [Pair(1, 2), (3,)], "mask": Record(4), "": 5}
    assert flatten(tree).paths == ["past.0.left", "past.0.right", "past.1.0", "mask.first", "mask.second", ""]
    assert flatten(7).paths == [""]


def test_outputs_and_batches_of_hugging_face() -> None:
    output = CausalLMOutput(loss=torch.ones(()), logits=torch.zeros(2, 3))
    flat = flatten(output)
    assert flat.paths == ["loss", "logits"], "fields that are None are no part of it"
    again = rebuild(flat.template, flat.leaves)
    assert isinstance(again, CausalLMOutput)
    assert again.logits is output.logits
    batch = BatchEncoding({"input_ids": torch.ones(2)})
    again = rebuild(*reversed(flatten(batch)[1:]))
    assert type(again) is dict
    assert list(again) == ["input_ids"]


def test_other_mappings_become_dicts_and_other_tuples_stay() -> None:
    ordered = collections.OrderedDict(b=1, a=[2])
    again = rebuild(*reversed(flatten(ordered)[1:]))
    assert again == {"b": 1, "a": [2]}
    assert list(again) == ["b", "a"]
    values, indices = torch.tensor([[3.0, 1.0]]).sort()
    again = rebuild(*reversed(flatten(torch.return_types.sort((values, indices)))[1:]))
    assert isinstance(again, torch.return_types.sort)
    assert again.indices is indices


def test_empty_containers_are_kept() -> None:
    for empty in ({}, [], (), {"a": []}):
        assert rebuild(flatten(empty).template, []) == empty


def test_classes_are_leaves() -> None:
    assert flatten([Record, Pair]).leaves == [Record, Pair]
