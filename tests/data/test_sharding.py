"""What the room `sharding` knows of operations on tokens: divided by rows, or behind the tokens, never along them."""

from __future__ import annotations

import pytest

from merak.data import gather_tokens, keep_tokens, place_tokens, scatter_tokens
from tests.sharding.operations import Draw, Drawn
from tests.sharding.test_rules import check_factor, rule_of


def drawn(name: str, seed: int) -> Drawn:
    draw = Draw(seed)
    rows, tokens, *behind = draw.size(), draw.size() + 1, *draw.sizes(0, 2)
    kept = draw.choice.randint(1, tokens)
    index = keep_tokens(rows, tokens, kept, seed=seed, step=0, microbatch=0, layer=0)
    full, part = draw.whole(rows, tokens, *behind), draw.whole(rows, kept, *behind)
    if name == "gather_tokens":
        return Drawn(f"merak::{name}", [full, index], lambda given, _: gather_tokens(*given))
    if name == "place_tokens":
        return Drawn(f"merak::{name}", [part, index], lambda given, _: place_tokens(*given, tokens))
    return Drawn(f"merak::{name}", [full, part, index], lambda given, _: scatter_tokens(*given))


@pytest.mark.parametrize("name", ["gather_tokens", "place_tokens", "scatter_tokens"])
def test_parts_of_results_are_results_of_parts(name: str) -> None:
    tried = 0
    for seed in range(200):
        call = drawn(name, seed)
        results = call.results(call.operands, [])
        rule = rule_of(call, results)
        for divided, (size, kind) in enumerate(rule[0]):
            assert kind in ("pass", "replicate")
            if kind == "pass" and size > 1:
                tried += 1
                wrong = [check_factor(call, results, rule, divided, ranks) for ranks in (2, 3)]
                assert not any(wrong), f"{name}, seed {seed}: {wrong}"
        assert [of[0] for of in rule[1]] == [rule[2][0][0]] * len(rule[1]), "rows are divided together"
    assert tried > 100
