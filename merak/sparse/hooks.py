"""Hooks for DistributedDataParallel.

ddp.register_comm_hook(merak.sparse.HookState(), merak.sparse.exact_hook)
ddp.register_comm_hook(merak.sparse.TopKState(ratio=0.01), merak.sparse.topk_hook)
ddp.register_comm_hook(merak.sparse.SketchState(budget_bytes=500_000), merak.sparse.sketch_hook)
"""
# Without `from __future__ import annotations`: DDP looks at the annotations of hooks, and wants types.

import dataclasses
from collections.abc import Mapping
from typing import get_args

import torch
import torch.distributed as dist

import merak.backend
from merak._torch_compat import GradBucket, ProcessGroup
from merak.sparse.codec import SketchCodec
from merak.sparse.operations import NO_TIMEOUT, Method


@dataclasses.dataclass
class HookState:
    """What a hook needs to know.

    Attributes:
        group: the one DDP uses; the default group if None. Of backend "merak".
        method: how sparse gradients travel, see `Method`.
    """

    group: ProcessGroup | None = None
    method: Method = "auto"

    def __post_init__(self) -> None:
        exact = [method for method in get_args(Method) if method != "sketch"]
        if self.method not in exact:
            raise ValueError(f"method is {self.method!r}; choose one of {exact}, or sketch_hook for a lossy one.")

    def _place(self) -> dict[str, torch.Tensor]:
        """Whose state this is: what a rank has not sent yet is nobody else's."""
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        return {"rank": torch.tensor(rank), "world_size": torch.tensor(size)}

    def _check_state(self, state: dict[str, torch.Tensor], prefix: str) -> None:
        """That it is this rank's own state of this kind, whose other names all begin with `prefix`."""
        place = self._place()
        named = {key for key in state if not key.startswith(prefix)}
        if named != {"steps", *place}:
            raise ValueError(f"this is no state of a {type(self).__name__}: it has {sorted(state)}.")
        for name, own in place.items():
            if int(state[name]) != int(own):
                raise ValueError(
                    f"this state has {name} {int(state[name])}, and here it is {int(own)}: every rank saves and loads "
                    "its own, and the ranks must be as many as before. Start without it otherwise."
                )


def exact_hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages a bucket exactly: a sparse gradient (`nn.Embedding(sparse=True)`) by `all_reduce` of this room, summed
    in fp32 or wider and divided once; a dense one as DDP itself does."""
    _require_state(state, HookState, "exact_hook")
    buffer = bucket.buffer()
    if buffer.layout is torch.sparse_coo:
        return _average(state, buffer).then(_first)
    buffer.div_(dist.get_world_size(state.group))  # before the sum, which could overflow
    return dist.all_reduce(buffer, group=state.group, async_op=True).get_future().then(_first)


_EXACT_STEPS = 2  # DDP arranges its buckets anew after the first step


@dataclasses.dataclass
class TopKState(HookState):
    """What `topk_hook` keeps. `state_dict()` and `load_state_dict()` save it, on every rank its own.

    Attributes:
        ratio: the share of a dense gradient's elements that a rank sends, more than 0 and at most 1.
        residuals: by bucket, what was not sent yet: it is added to the next gradient (error feedback).
        steps: how many steps there were.
    """

    ratio: float = 0.01
    residuals: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}; it must be more than 0 and at most 1.")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors alone, to be saved without pickle."""
        residuals = {f"residual.{index}": residual.clone() for index, residual in self.residuals.items()}
        return {"steps": torch.tensor(self.steps), **self._place(), **residuals}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave on this rank, of the same model. The next two steps are exact again.

        Raises:
            ValueError: it is another kind of state, or another rank's.
        """
        self._check_state(state, "residual.")
        self.steps = 0
        self.residuals = {
            int(name.removeprefix("residual.")): residual.clone()
            for name, residual in state.items()
            if name.startswith("residual.")
        }


def topk_hook(state: TopKState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sends the largest elements of a dense gradient only, and keeps the rest for later steps; of a sparse one all.

    Every rank adds its residual to its gradient and sends the `ratio` of elements with the largest magnitudes; the
    average of what the ranks sent is the same everywhere. Nothing is lost, only late: what is sent and what is kept
    add up to the gradients so far. Converges as SGD does, if the learning rate is small enough (S. Stich et al.,
    "Sparsified SGD with memory", 2018). The first two steps are exact.
    """
    _require_state(state, TopKState, "topk_hook")
    buffer, index = bucket.buffer(), bucket.index()
    steps = state.steps
    state.steps += bucket.is_last()
    if buffer.layout is torch.sparse_coo or steps < _EXACT_STEPS:
        return exact_hook(state, bucket)
    residual = state.residuals.get(index)
    if residual is not None:
        if residual.shape != buffer.shape or residual.dtype != buffer.dtype:
            merak.backend.of_group(state.group).refuse_sparse_all_reduce(
                f"topk_hook: the residual of bucket {index} has {residual.numel()} elements of {residual.dtype}, "
                f"the bucket {buffer.numel()} of {buffer.dtype}: the state belongs to another model or bucket_cap_mb."
            )
        buffer.add_(residual)
    count = max(1, int(state.ratio * buffer.numel()))
    chosen = buffer.abs().topk(count, sorted=False).indices
    sent = torch.sparse_coo_tensor(chosen[None], buffer[chosen], buffer.shape, check_invariants=False)
    buffer[chosen] = 0
    state.residuals[index] = buffer.clone()
    return _average(state, sent).then(lambda future: _laid_out(future, buffer))


@dataclasses.dataclass(kw_only=True)
class SketchState(HookState):
    """What `sketch_hook` keeps. `state_dict()` and `load_state_dict()` save it, on every rank its own.

    Attributes:
        budget_bytes, seed, feedback: of the codec of each sparse gradient, see `SketchCodec`. The budget may be one for
            each parameter that has sparse gradients.
        codecs: by bucket.
        steps: how many steps there were.
    """

    budget_bytes: int | Mapping[torch.nn.Parameter, int]
    seed: int = 0
    feedback: bool = True
    codecs: dict[int, SketchCodec] = dataclasses.field(default_factory=dict)
    steps: int = 0
    _saved: dict[int, dict[str, torch.Tensor]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.budget_bytes, int | Mapping):
            raise TypeError(f"budget_bytes is {self.budget_bytes!r}; it must be an integer, or one for each parameter.")

    def codec(self, bucket: GradBucket) -> SketchCodec:
        """That of a bucket with a sparse gradient, made when it is first asked for."""
        index = bucket.index()
        if index not in self.codecs:
            self.codecs[index] = SketchCodec(self._budget(bucket), self.seed, self.feedback)
            if saved := self._saved.pop(index, None):
                self.codecs[index].load_state_dict(saved)
        return self.codecs[index]

    def _budget(self, bucket: GradBucket) -> int:
        if isinstance(self.budget_bytes, int):
            return self.budget_bytes
        (parameter,) = bucket.parameters()  # DDP puts a sparse gradient into a bucket of its own
        for known, budget in self.budget_bytes.items():
            if known is parameter:
                return budget
        reason = (
            f"budget_bytes has no budget for the parameter of shape {tuple(parameter.shape)}, whose gradient is "
            "sparse. Give it one, or one number for all."
        )
        merak.backend.of_group(self.group).refuse_sparse_all_reduce(reason)
        raise ValueError(reason)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors alone, to be saved without pickle."""
        state = {"steps": torch.tensor(self.steps)} | self._place()
        of_codecs = self._saved | {index: codec.state_dict() for index, codec in self.codecs.items()}
        for index, of_codec in of_codecs.items():
            state |= {f"codec.{index}.{name}": value for name, value in of_codec.items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave on this rank, of the same model. The next two steps are exact again.

        Raises:
            ValueError: it is another kind of state, or another rank's.
        """
        self._check_state(state, "codec.")
        saved: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            if key.startswith("codec."):
                _, index, name = key.split(".", 2)
                saved.setdefault(int(index), {})[name] = value
        for of_codec in saved.values():
            SketchCodec(1).load_state_dict(of_codec)  # refuses what is none
        self.steps, self.codecs, self._saved = 0, {}, saved


def sketch_hook(state: SketchState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages a sparse gradient by a sketch of `state.budget_bytes`, with error feedback unless the state says
    otherwise (`SketchCodec`); a dense one exactly. The first two steps are exact."""
    _require_state(state, SketchState, "sketch_hook")
    buffer = bucket.buffer()
    steps = state.steps
    state.steps += bucket.is_last()
    if buffer.layout is not torch.sparse_coo or steps < _EXACT_STEPS:
        return exact_hook(state, bucket)
    wide = buffer.float() if buffer.dtype in (torch.float16, torch.bfloat16) else buffer
    backend = merak.backend.of_group(state.group)
    work = state.codec(bucket).start(backend, wide, dist.ReduceOp(dist.ReduceOp.AVG), NO_TIMEOUT)
    return work.get_future().then(lambda future: _first(future).to(buffer.dtype))


def _require_state(state: object, kind: type[HookState], hook: str) -> None:
    if not isinstance(state, kind):
        raise TypeError(f"{hook} needs a merak.sparse.{kind.__name__} as its state, and not {state!r}.")


def _average(state: HookState, x: torch.Tensor) -> torch.futures.Future[list[torch.Tensor]]:
    backend = merak.backend.of_group(state.group)
    average = dist.ReduceOp(dist.ReduceOp.AVG)
    return backend.sparse_all_reduce([x], average, state.method, NO_TIMEOUT).get_future()


def _first(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
    return future.value()[0]


def _laid_out(future: torch.futures.Future[list[torch.Tensor]], buffer: torch.Tensor) -> torch.Tensor:
    """The sparse average in the bucket's own memory."""
    average = _first(future)
    return buffer.zero_().index_copy_(0, average.indices()[0], average.values())
