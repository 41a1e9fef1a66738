"""accelerate and the Hugging Face Trainer on CPU, with the group initialised before they are built."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.backend import models
from tests.backend.harness import Context

pytest.importorskip("accelerate")
pytest.importorskip("transformers")
SameAsGloo = Callable[..., list[Any]]


def pretend_torchrun(context: Context) -> None:
    """Sets what a launcher would; the libraries look at it, though the group exists."""
    os.environ |= {
        "RANK": str(context.rank),
        "LOCAL_RANK": str(context.rank),
        "WORLD_SIZE": str(context.world_size),
        "LOCAL_WORLD_SIZE": str(context.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def train_with_accelerate(context: Context) -> tuple[list[float], dict[str, torch.Tensor], list[float]]:
    from accelerate import Accelerator

    pretend_torchrun(context)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == context.world_size
    model = nn.Sequential(nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 3))
    data = [pair for rank in range(2) for x, y in models.batches(rank, 4) for pair in zip(x, y, strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=6))
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    everyone = accelerator.gather_for_metrics(torch.tensor([losses[-1]]))
    return losses, models.state(accelerator.unwrap_model(model)), everyone.tolist()


def test_accelerate_equals_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train_with_accelerate, exact=True, deadline=180.0)


def train_with_trainer(context: Context, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    import transformers

    pretend_torchrun(context)
    transformers.utils.logging.set_verbosity_error()
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=16, bos_token_id=0)
    transformers.set_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(64, (48, 16), generator=torch.Generator().manual_seed(5))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / context.backend),
        use_cpu=True,
        per_device_train_batch_size=4,
        max_steps=4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    assert trainer.args.world_size == context.world_size
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, models.state(model)


def test_trainer_equals_gloo(same_as_gloo: SameAsGloo, tmp_path: Path) -> None:
    losses, _ = same_as_gloo(train_with_trainer, tmp_path, exact=True, deadline=240.0)[0]
    assert len(losses) == 4
