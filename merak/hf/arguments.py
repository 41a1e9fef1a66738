"""What a user's arguments come to: the plan that is run, and what is refused, each with its reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from merak.engine import Plan

PlanLike = Plan | Mapping[str, Any] | str | Path

AUTO = "auto"
_OTHER_ENGINE = "the plan says how ranks share the work"
NO_HUB = "ranks would wait for one that uploads: save_model(folder), then huggingface_hub.upload_folder on rank 0"
_LAYERWISE = ("galore", "lomo", "adalomo", "apollo", "schedule_free")


def read_plan(plan: PlanLike | None) -> Plan:
    """A plan from what users give: a plan, the path of its JSON, or a dict."""
    if isinstance(plan, Plan):
        return plan
    if plan is None:
        raise ValueError(
            "merak.hf.Trainer needs a plan, for as many ranks as are launched: give plan='auto', or merak.Plan(dp=2, "
            "pp=2, microbatches=4), the path of its JSON, or a dict"
        )
    if isinstance(plan, str | Path):
        return Plan.load(plan)
    if isinstance(plan, Mapping):
        return Plan.from_json(json.dumps(dict(plan)))
    raise ValueError(f"plan is {plan!r}; it must be a merak.Plan, a path to its JSON, or a dict")


def plan_for(args: Any, plan: PlanLike | None) -> Plan:
    """The plan with the precision and the seed that the arguments ask for, checked against the ranks that run. Of
    "auto" one to begin with: a replica on each rank."""
    found = None if plan == AUTO else read_plan(plan)
    if not dist.is_initialized():
        raise ValueError(
            "there is no process group: launch with torchrun, and say torch.distributed.init_process_group('merak') "
            "before TrainingArguments is made"
        )
    found = found or Plan(dp=dist.get_world_size())
    found.check_world(dist.get_world_size())
    wanted = "bf16" if args.bf16 else "fp16" if args.fp16 else found.precision
    if found.precision not in ("fp32", wanted):
        raise ValueError(f"the plan's precision is {found.precision}, and the arguments say {wanted}")
    return dataclasses.replace(found, precision=wanted, seed=found.seed or args.seed)


def check_supported(args: Any) -> None:
    """Refuses arguments that could not be obeyed.

    Raises:
        ValueError: names all of them, and what to do.
    """
    refused = {name: reason for name, (is_set, reason) in _refusals(args).items() if is_set}
    if refused:
        lines = "\n  ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"merak.hf.Trainer does not take these arguments:\n  {lines}")


def _refusals(args: Any) -> dict[str, tuple[bool, str]]:
    config, optimizer = args.accelerator_config, getattr(args.optim, "value", str(args.optim))
    return {
        "deepspeed": (bool(args.deepspeed), _OTHER_ENGINE),
        "fsdp": (bool(args.fsdp), f"{_OTHER_ENGINE}; Plan(data_parallel='zero1') shards the optimizer"),
        "parallelism_config": (args.parallelism_config is not None, _OTHER_ENGINE),
        "torch_compile": (args.torch_compile, "stages run as captured graphs"),
        "several GPUs in a process": (args.n_gpu > 1, "launch a rank for each with torchrun"),
        "auto_find_batch_size": (args.auto_find_batch_size, "more microbatches take less memory"),
        "activation_checkpointing": (
            bool(args.activation_checkpointing or args.gradient_checkpointing),
            "Plan(recompute=...) says how much is recomputed",
        ),
        "use_liger_kernel": (args.use_liger_kernel, "its kernels cannot be captured"),
        "neftune_noise_alpha": (args.neftune_noise_alpha is not None, "its hooks are not in the captured graph"),
        "debug": (bool(args.debug), "its hooks are not in the captured graph"),
        "fp16_full_eval, bf16_full_eval": (
            bool(args.fp16_full_eval or args.bf16_full_eval),
            "parameters keep their dtype; bf16 and fp16 hold for evaluation, too",
        ),
        "eval_use_gather_object": (args.eval_use_gather_object, "nothing is pickled: let the model give tensors"),
        "push_to_hub": (args.push_to_hub, NO_HUB),
        "enable_jit_checkpoint": (args.enable_jit_checkpoint, "a checkpoint takes all ranks, and the signal meets one"),
        "train_sampling_strategy": (args.train_sampling_strategy == "batch_rebalance", "it deals rows to ranks itself"),
        "accelerator_config": (
            bool(config.split_batches or config.dispatch_batches),
            "split_batches and dispatch_batches deal rows to ranks, not to replicas",
        ),
        "optim": (any(name in optimizer for name in _LAYERWISE), f"{optimizer} needs the whole model, or hooks"),
    }
