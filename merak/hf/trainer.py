"""`Trainer`: transformers' own loop, around an engine that computes what it would.

The one file that knows the inside of `transformers.Trainer`; tested with transformers 5.24, accelerate 1.15. The loop,
its arguments, callbacks, logs and metrics stay theirs. What is replaced, by the order in which it is met:

- `accelerate` neither wraps the model nor deals batches to ranks: loaders give what replicas get (`data`), and metrics
  are gathered over replicas, not over ranks.
- The engine is made when a batch is first at hand, since the model is captured with an example.
- `training_step` keeps the batches of `gradient_accumulation_steps` until the last; then the engine takes them as
  micro-batches of one step: forward, backward, clipping and the optimizer's step. What the loop does afterwards
  (clipping, `optimizer.step`, `zero_grad`) finds it done.
- Evaluation asks the engine for the loss over the global batch, and for the replica's outputs.
- A checkpoint holds the whole model as Hugging Face writes it, and in `engine/` what any plan can resume from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import recursively_apply
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler

from merak.engine import Engine, parallelize
from merak.engine.agreement import add_up
from merak.hf import losses, randomness
from merak.hf.arguments import AUTO, NO_HUB, PlanLike, check_supported, plan_for
from merak.hf.automatic import ClusterLike, cluster_of, plan_of_all
from merak.hf.data import example_of, loader_of_replica, only_mine
from merak.hf.data_efficiency import (
    BudgetArguments,
    CurriculumArguments,
    DataArguments,
    DataEfficiency,
    RandomLTDArguments,
)
from merak.hf.gather import all_or_none, gather_rows, give_to_all
from merak.hf.stand_ins import Named, SteppedOptimizer, Through
from merak.pipeline.microbatches import rows_of, split
from merak.planner import Found

ENGINE_FOLDER = "engine"
_NOT_CALLED = ("compute_loss", "training_step", "create_optimizer")


class Trainer(transformers.Trainer):
    """A `transformers.Trainer` that trains by a plan. All methods are collective over all ranks.

    Args:
        plan: a `merak.Plan`, the path of its JSON, or a dict of its fields. Its `microbatches` are those of
            `per_device_train_batch_size` rows, which each replica is given; `gradient_accumulation_steps` multiplies.
            Or "auto": the plan that trains fastest on the ranks that run, with as many rows in all as if there were a
            replica on each.
        cluster: for "auto", what the ranks run on, or the path of its file; measured by default.
        random_ltd: layers of the model drop tokens in training.
        curriculum: which samples come when, and how long they are.
        budget: after how many layer-tokens the training ends, and the learning rate has decayed.
        positional, keywords: as `transformers.Trainer` has them.

    Attributes:
        engine: None until a batch is at hand.
        found: of "auto", the plan with its explanation, once the trainer is made.

    Raises:
        ValueError: an argument cannot be obeyed, or the plan is for other ranks.
    """

    model: Any
    args: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any

    def __init__(
        self,
        model: Any = None,
        args: transformers.TrainingArguments | None = None,
        *positional: Any,
        plan: PlanLike | None = None,
        cluster: ClusterLike | None = None,
        random_ltd: RandomLTDArguments | None = None,
        curriculum: CurriculumArguments | None = None,
        budget: BudgetArguments | None = None,
        **keywords: Any,
    ) -> None:
        args = args or transformers.TrainingArguments("tmp_trainer")
        # A plan is found of the model as it is, before its layers drop tokens.
        asked = DataArguments(random_ltd, curriculum, budget)
        begin_with = dataclasses.replace(asked, random_ltd=None) if plan == AUTO else asked
        make = partial(self._construct, model, args, positional, plan, begin_with, keywords)
        all_or_none(make, "the Trainer was not made", args.device)
        if plan == AUTO:
            self._find_plan(cluster)
            if random_ltd is not None:
                all_or_none(partial(self._drop_tokens, asked), "the Trainer was not made", args.device)

    def _construct(
        self,
        model: Any,
        args: transformers.TrainingArguments,
        positional: tuple[Any, ...],
        plan: PlanLike | None,
        efficiency: DataArguments,
        keywords: dict[str, Any],
    ) -> None:
        check_supported(args)
        self.plan = plan_for(args, plan)
        self.engine: Engine | None = None
        self.found: Found | None = None
        self._made_for: tuple[Any, bool] = None, False
        self._parts: list[dict[str, Any]] = []
        self._wants_output = True
        if isinstance(model, nn.Module) and any(parameter.is_meta for parameter in model.parameters()):
            raise ValueError(
                "the model is on the meta device, and Trainer moves it: give it memory, or use merak.parallelize"
            )
        super().__init__(model, args, *positional, **keywords)
        self._check_replaced()
        self._efficiency = self._efficiency_of(efficiency)
        if isinstance(self.train_dataset, IterableDataset):
            self._efficiency.check_stream()

    def _efficiency_of(self, asked: DataArguments) -> DataEfficiency:
        if asked.random_ltd is not None and self.model_init is not None:
            raise ValueError("random_ltd changes the layers of one model: give `model` instead of model_init")
        args = self.args
        seeds = args.seed, args.seed if args.data_seed is None else args.data_seed
        return DataEfficiency(self.model, asked, seeds)

    def _drop_tokens(self, asked: DataArguments) -> None:
        """From now on. Stages then begin elsewhere: operations are others, and may have other names."""
        self._efficiency = self._efficiency_of(asked)
        self.plan = dataclasses.replace(self.plan, cuts=None)

    def _find_plan(self, cluster: ClusterLike | None) -> None:
        """Replaces the plan to begin with by the one that trains fastest."""
        if self.train_dataset is None:
            raise ValueError("plan='auto' is for training, and there is no train_dataset: say merak.Plan(dp=...)")
        if self.args.gradient_accumulation_steps > 1:
            raise ValueError(
                "plan='auto' chooses the micro-batches: give gradient_accumulation_steps=1, and all rows of a step in "
                "per_device_train_batch_size"
            )
        known = cluster_of(cluster, self.args.device)
        with randomness.undisturbed():
            example = dict(self._prepare_inputs(example_of(self.get_train_dataloader(), self.args.train_batch_size)))
        rows = self.args.train_batch_size * self.plan.dp
        device = self.args.device
        self.found, self.plan = plan_of_all(self.model, example, known, rows, self.plan, self._loss_fn(), device)
        self.args.per_device_train_batch_size = self._train_batch_size = rows // self.plan.dp

    def _check_replaced(self) -> None:
        if self.optimizer is not None or self.lr_scheduler is not None:
            raise ValueError(
                "optimizers: a rank's optimizer has its own parameters only; give optimizer_cls_and_kwargs"
            )
        if overridden := [name for name in _NOT_CALLED if getattr(type(self), name) is not getattr(Trainer, name)]:
            raise ValueError(
                f"{', '.join(overridden)}: the engine does not call a subclass's; give compute_loss_func, or "
                "optimizer_cls_and_kwargs"
            )

    # Data ------------------------------------------------------------------------------------------------------------

    def _build_accelerator_args(self, **keywords: Any) -> dict[str, Any]:
        return super()._build_accelerator_args(**keywords) | {"mixed_precision": "no"}

    @property
    def _replica(self) -> int:
        return self.plan.place_of(self.args.process_index)[1]

    def create_accelerator_and_postprocess(self) -> None:
        """Makes accelerate's own object, and has it deal with replicas."""
        super().create_accelerator_and_postprocess()
        vars(self.accelerator).update(prepare=self._prepare_loader, gather=self._gather)

    def _prepare_loader(self, loader: DataLoader[Any]) -> Any:
        """What accelerate makes of a loader: a replica's part, in the order of the stock Trainer, on the device."""
        replica = self._replica
        if isinstance(loader.worker_init_fn, partial):
            workers = loader.worker_init_fn
            loader.worker_init_fn = partial(workers.func, **(workers.keywords | {"rank": replica}))
        if isinstance(loader.sampler, LengthGroupedSampler):
            loader.sampler.batch_size *= self.plan.dp  # of all replicas together: the order is that of one process
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return prepare_data_loader(
            loader_of_replica(loader, replica, self.plan.dp, seed),
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
            use_seedable_sampler=self.args.accelerator_config.use_seedable_sampler,
            data_seed=self.args.data_seed,
            non_blocking=self.args.accelerator_config.non_blocking,
        )

    def _gather(self, tensors: Any) -> Any:
        replicas = self._running().replicas
        return recursively_apply(lambda tensor: gather_rows(tensor, replicas), tensors, error_on_other_type=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        order = self._efficiency.sampler(data, self.get_total_train_batch_size(self.args))
        return super()._get_train_sampler(data) if order is None else order

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer's step."""
        return int(self._train_batch_size * args.gradient_accumulation_steps * self.plan.dp)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> None:
        return None  # the engine counts targets

    def floating_point_ops(self, inputs: Any) -> Any:
        """This rank's part of what its replica computes."""
        return super().floating_point_ops(inputs) / sum(self.plan.widths)

    def _cut(self, inputs: Mapping[str, Any], usual_rows: int) -> list[dict[str, Any]]:
        """A batch as micro-batches, none with more rows than those of a usual batch have."""
        rows, count = rows_of(inputs), self.plan.microbatches
        return split(dict(inputs), min(rows, max(count, math.ceil(rows * count / usual_rows))))

    # The engine ------------------------------------------------------------------------------------------------------

    def _running(self) -> Engine:
        assert self.engine is not None, "the engine is made by train, evaluate and predict"
        return self.engine

    def _make_engine(self, loader: Any) -> Engine:
        """The engine for the model as it is now: rank 0's, on all ranks."""
        steps, clip = self.args.gradient_accumulation_steps, self.args.max_grad_norm
        with randomness.undisturbed():
            example = self._prepare_inputs(example_of(loader, self.args.train_batch_size * steps))
            give_to_all(self.model)
            (example,) = self._efficiency.microbatches([dict(example)], self.state.global_step)
            self.engine = parallelize(
                self.model,
                dataclasses.replace(self.plan, microbatches=self.plan.microbatches * steps),
                example,
                optimizer=self._make_optimizer,
                loss_fn=self._loss_fn(),
                clip=clip if clip > 0 else math.inf,
            )
        assert self.engine.dp_rank == self._replica
        self._made_for = self.model, self.train_dataset is not None
        return self.engine

    def _has_engine(self) -> bool:
        """Whether there is one for this model, and not for evaluation only if there is something to train on."""
        model, trains = self._made_for
        return self.engine is not None and model is self.model and trains >= (self.train_dataset is not None)

    def _make_optimizer(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        self.optimizer = None
        return super().create_optimizer(Named(named_parameters))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the whole model's parameters that decay, whatever part is asked for."""
        return super().get_decay_parameter_names(self.model)

    def _loss_fn(self) -> losses.Loss | None:
        if self.compute_loss_func is not None:
            return losses.of_user(self.compute_loss_func, self._loss_shifts_labels)
        if self.label_smoother is None:
            return None
        shift = type(self.model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return losses.smoothed(self.args.label_smoothing_factor, shift)

    # Training --------------------------------------------------------------------------------------------------------

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if self._created_lr_scheduler:
            self.lr_scheduler, self._created_lr_scheduler = None, False
        self._efficiency.begin(max_steps)
        engine = self._running() if self._has_engine() else self._make_engine(train_dataloader)
        self._parts.clear()
        self.optimizer = SteppedOptimizer(engine.optimizer)
        self.accelerator._optimizers.append(self.optimizer)  # which tells the loop of skipped steps
        if (rates := self._efficiency.rates(engine.optimizer)) is None:
            self.create_scheduler(max_steps, engine.optimizer)
        else:
            self.lr_scheduler = rates
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.callback_handler.train_dataloader = train_dataloader
        return self.model, train_dataloader

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Keeps a batch; with the last of a step, the step. The loss of the step, and zero before."""
        inputs = self._efficiency.shortened(self._prepare_inputs(dict(inputs)), self.state.global_step)
        mine = only_mine(inputs, self._replica) if self._parts and self._all_have_the_same() else inputs
        if mine is not None:
            self._parts += self._cut(mine, self.args.train_batch_size)
        loss = 0.0
        if self.accelerator.sync_gradients:
            parts, self._parts = self._parts, []
            engine = self._running()
            before = engine.steps
            first = engine.dp_rank * engine.plan.microbatches
            loss = engine.train_step(self._efficiency.microbatches(parts, self.state.global_step, first))
            if self._efficiency.count(parts, self._sum_over_replicas):
                self.control.should_training_stop = True
            self.optimizer.step_was_skipped = engine.steps == before
        return torch.tensor(loss, device=self.args.device)

    def _all_have_the_same(self) -> bool:
        """Whether this is an epoch's last batch, and has fewer rows than there are replicas."""
        data, replicas = self.train_dataset, self.plan.dp
        if isinstance(data, IterableDataset) or self.args.dataloader_drop_last:
            return False
        is_last: bool = self.accelerator.gradient_state.end_of_dataloader and self.accelerator.sync_gradients
        return is_last and 0 < len(data) % (self.args.train_batch_size * replicas) < replicas

    def log(self, logs: dict[str, float], *positional: Any, **keywords: Any) -> None:
        """As in `transformers.Trainer`; a training's logs have what it has used of the data, too."""
        super().log(logs | self._used() if "loss" in logs else logs, *positional, **keywords)

    def _used(self) -> dict[str, float]:
        return self._efficiency.used(self._sum_over_replicas)

    def _sum_over_replicas(self, mine: Sequence[float]) -> list[float]:
        return add_up(mine, self._running().replicas, self.args.device)

    def _clip_grad_norm(self, model: Any) -> float | None:
        return self._running().grad_norm

    def _get_grad_norm(self, model: Any, grad_norm: float | None = None) -> float | None:
        return self._running().grad_norm

    def hyperparameter_search(self, *_: Any, **__: Any) -> Any:
        """Refused."""
        raise ValueError("hyperparameter_search is not supported: launch a training for each choice")

    # Evaluation ------------------------------------------------------------------------------------------------------

    def evaluation_loop(self, dataloader: Any, *positional: Any, **keywords: Any) -> Any:
        """As in `transformers.Trainer`."""
        if not self._has_engine():
            self._make_engine(dataloader if self.train_dataset is None else self.get_train_dataloader())
        return super().evaluation_loop(dataloader, *positional, **keywords)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        return Through(lambda inputs: self._evaluated(inputs)[1])

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """As in `transformers.Trainer`: the loss is that of the global batch, the outputs are the replica's."""
        self._wants_output = not prediction_loss_only
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss in evaluation; training does not call it."""
        loss, output = self._evaluated(inputs)
        if loss is None:
            raise ValueError("the model's output has no loss for these inputs: give compute_loss_func")
        found = torch.tensor(loss, device=self.args.device)
        return (found, output) if return_outputs else found

    def _evaluated(self, inputs: Mapping[str, Any]) -> tuple[float | None, Any]:
        parts = self._cut(inputs, self.args.eval_batch_size)
        loss, output = self._running().eval_step(parts, output=self._wants_output)
        return loss, output if self._wants_output else ()

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def gather_model(self) -> Any:
        """The plain model with the weights that all ranks have trained, on every rank, to generate with, say."""
        if self.engine is not None and self._made_for[0] is self.model:
            self.engine.gather_into(self.model)
        return self.model

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the whole model as Hugging Face does; `from_pretrained` reads it."""
        self.gather_model()
        self._together(partial(super().save_model, output_dir, _internal_call), "the model was not saved")

    def push_to_hub(self, *_: Any, **__: Any) -> Any:
        """Refused."""
        raise ValueError(f"push_to_hub is not supported: {NO_HUB}")

    def _together(self, action: Callable[[], Any], what: str) -> Any:
        return all_or_none(action, what, self.args.device)

    def _save_checkpoint(self, *positional: Any, **keywords: Any) -> None:
        self._together(partial(super()._save_checkpoint, *positional, **keywords), "the checkpoint was not saved")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = {"scheduler": self.lr_scheduler.state_dict(), "used": self._used()}
        self._running().save(Path(output_dir) / ENGINE_FOLDER, state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load = partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self._together(partial(_check_resumable, Path(resume_from_checkpoint)), "the training was not resumed")
        self._together(load, "the training was not resumed")

    def _load_best_model(self) -> None:
        self._together(super()._load_best_model, "the best model was not loaded")
        self._running().take_from(self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = self._running().load(Path(checkpoint) / ENGINE_FOLDER)
            self._efficiency.go_on(state.get("used", {}))
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.should_save:
            randomness.save_state(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._together(partial(randomness.load_state, checkpoint), "the training was not resumed")


def _check_resumable(checkpoint: Path) -> None:
    """Refuses what has no state of the optimizer: it would begin anew, and nobody would notice."""
    for name in (ENGINE_FOLDER, TRAINER_STATE_NAME):
        if not (checkpoint / name).exists():
            raise ValueError(
                f"{checkpoint} cannot be resumed from: it has no {name}. Either there is no such folder, or it is of "
                "another Trainer or of save_only_model=True. To begin a training with its weights, give the model of "
                "from_pretrained, and no resume_from_checkpoint"
            )
