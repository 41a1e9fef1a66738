"""Sequence length by the step: truncated rows, and rows cut into pieces."""

from __future__ import annotations

import pytest
import torch

from merak.data import Pacing, ReshapeLength, TruncateLength

BATCH = {"input_ids": torch.arange(24).view(2, 12), "position_ids": torch.arange(12).repeat(2, 1)}


def test_truncating_keeps_the_beginning_of_rows() -> None:
    batch = TruncateLength(Pacing.linear(4, 12, 8))({**BATCH, "weight": torch.ones(2)}, step=1)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4], [12, 13, 14, 15, 16]]
    assert batch["weight"].shape == (2,)
    assert TruncateLength(Pacing.linear(4, 99, 8))(BATCH, step=9)["input_ids"].shape == (2, 12)


def test_reshaping_cuts_rows_into_pieces() -> None:
    batch = ReshapeLength(Pacing.linear(4, 12, 8))(BATCH, step=0)
    assert batch["input_ids"].tolist() == torch.arange(24).view(6, 4).tolist()
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3]] * 6
    five = ReshapeLength(Pacing.linear(5, 5, 0))(BATCH, step=0)
    assert five["input_ids"][:, 0].tolist() == [0, 5, 12, 17]  # 10 and 11 are left out, and 22 and 23


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="0 tokens at step 3"):
        TruncateLength(Pacing.linear(0, 0, 0))(BATCH, step=3)
    with pytest.raises(ValueError, match="'weight' is not known"):
        ReshapeLength(Pacing.linear(4, 12, 8))({**BATCH, "weight": torch.ones(2)}, step=0)
