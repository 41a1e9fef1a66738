"""Random layerwise token dropping: each of the middle layers processes its own random part of a sequence.

Z. Yao et al., "Random-LTD: Random and Layerwise Token Dropping Brings Efficient Training for Large-scale Transformers",
2022. Of S tokens a layer *keeps* r, drawn anew for each layer, sequence and step, in their order; the others *bypass*
it unchanged. r grows with the steps until all are kept. The first and the last layer see everything.

A layer is not rewritten: it is called with the kept tokens of its hidden states and of what belongs to them
(following.py), and what comes out takes those tokens' places. Which are kept is a function of (seed, step, global
micro-batch, layer), drawn when the layer is called and handed to its `forward`: so a forward that is run again, for
recomputation, has the same tokens, and so has every rank that computes the same layer.

A captured graph would repeat the tokens of its capture, and run micro-batches in another order than they are counted
in. So there the indices are one of the batch's inputs: `with_indices` draws the same ones beforehand. Their number is a
size like that of the batch, which one graph serves whatever it is; and wherever a layer is computed, in any stage of a
pipeline, on any part of its weights, again for recomputation, it finds its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from merak.data.following import Follow, reduced
from merak.data.layers import Which, find_layers, kind_of
from merak.data.pacing import KeepSchedule
from merak.data.tokens import apply_to_tokens, keep_tokens

_INDEX = "merak_kept_tokens"
KEPT_TOKENS = "kept_tokens"
"""The entry of a batch that says what layers keep: int64, `[sequences, layers, kept]`."""
_WITH_TOKENS = ("input_ids", "decoder_input_ids", "inputs_embeds")


class _Dropping:
    """Comes before the class of a layer that drops tokens."""

    _merak_ltd: RandomLTD
    _merak_number: int
    _merak_names: tuple[str, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = [*self._merak_names[: len(args)], *kwargs]
        values = [*args, *kwargs.values()]
        hidden = next((v for n, v in zip(names, values, strict=False) if n == self._merak_names[0]), None)
        if isinstance(hidden, torch.Tensor):
            index = self._merak_ltd.index_of(self._merak_number, hidden)
            if index is not None:
                kwargs[_INDEX] = index
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        index = kwargs.pop(_INDEX, None)
        if index is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        named = dict(zip(self._merak_names, args, strict=False))
        first = self._merak_names[0]
        hidden = named[first] if first in named else kwargs[first]
        length, follow = hidden.shape[1], self._merak_ltd.follow

        def few(name: str, value: Any) -> Any:
            return value if name == first else reduced(name, value, index, length, follow)

        others: tuple[Any, ...] = ()

        def layer(part: torch.Tensor) -> torch.Tensor:
            nonlocal others
            values = {**named, **kwargs, first: part}
            output = super(_Dropping, self).forward(  # type: ignore[misc]
                *(few(name, values[name]) for name in named), **{name: few(name, values[name]) for name in kwargs}
            )
            if isinstance(output, torch.Tensor):
                return output
            others = tuple(output[1:])
            return output[0]  # type: ignore[no-any-return]

        result = apply_to_tokens(layer, hidden, index)
        return (result, *others) if others else result


class RandomLTD:
    """Makes layers of a model drop tokens, in place, while the model is in training mode.

        ltd = merak.data.RandomLTD(model, schedule=KeepSchedule(start=64, steps=700))
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            ltd.step()

    The model is called and saved as before. In `eval()`, and while all tokens are kept, it computes what it would
    without this, bit for bit. Every forward of the model in training counts as a micro-batch of the step; data-parallel
    ranks pass `rank` and `world_size`, so that micro-batches are counted over all of them. `at` says the position
    itself, where forwards come in another order (in pipelines, say).

    Args:
        model: whose layers take `[sequences, tokens, hidden]` first, as those of Hugging Face's models do.
        layers: "middle" (all but the first and the last), "all", numbers, or names of modules.
        schedule: how many tokens are kept at which step.
        seed: of the drawing.
        follow: arguments of layers beyond those known (`merak.data.following.FOLLOW`) with the dimensions that are
            tokens: `{"relative_positions": (-2, -1)}`; `()` for those that stay whole.

    Raises:
        ValueError: the layers cannot be found, or drop tokens already; the model's attention takes windows and
            documents in another way than by masks. At a forward: an argument of a layer of which it is not known how it
            follows the tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Which = "middle",
        *,
        schedule: KeepSchedule,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        follow: Follow | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} ranks does not exist")
        _refuse_attention(model)
        self.model, self.schedule, self.seed = model, schedule, seed
        self.rank, self.world_size = rank, world_size
        self.follow: Follow = dict(follow or {})
        self.layers = find_layers(model, layers)
        self.current_step, self._microbatch = 0, -1
        self._given: Mapping[int, torch.Tensor] | None = None
        self._whole_step = -1  # the last one of which `with_indices` has found that all tokens are kept
        if any(isinstance(layer, _Dropping) for layer in self.layers):
            raise ValueError("layers of this model drop tokens already: call remove() of the other RandomLTD first")
        for number, layer in enumerate(self.layers):
            _make_drop(layer, self, number)
        self._hooks = (
            model.register_forward_pre_hook(self._begin_forward, with_kwargs=True),
            model.register_forward_hook(self._end_forward, always_call=True),
        )

    def step(self) -> None:
        """The next step begins: to be called after the optimizer's."""
        self.at(self.current_step + 1)

    def at(self, step: int, microbatch: int | None = None) -> None:
        """The next forward is that of this step, and of this micro-batch (of this rank); by default of its first."""
        self.current_step = step
        self._microbatch = -1 if microbatch is None else microbatch - 1

    @contextmanager
    def using(self, indices: Mapping[int, torch.Tensor]) -> Iterator[None]:
        """Within it, layers keep the tokens of these indices, by the layer's number among `layers`; others keep all."""
        self._given = indices
        try:
            yield
        finally:
            self._given = None

    def kept(self, length: int) -> int:
        """Tokens that the layers keep at this step, of sequences of that length."""
        return self.schedule.kept(self.current_step, length)

    def indices(
        self, step: int, microbatch: int, sequences: int, length: int, device: torch.device | str = "cpu"
    ) -> dict[int, torch.Tensor]:
        """What each layer keeps, int64, `[sequences, kept]`, by its number; empty where all is kept.

        `microbatch` is counted over all ranks. These are what the layers draw themselves; as inputs of a captured graph
        they are computed here instead.
        """
        kept = self.schedule.kept(step, length)
        if kept >= length:
            return {}
        draw = partial(keep_tokens, sequences, length, kept, seed=self.seed, step=step, microbatch=microbatch)
        return {number: draw(layer=number, device=device) for number in range(len(self.layers))}

    def with_indices(
        self, microbatches: Sequence[Mapping[str, Any]], first: int = 0, *, length: int | None = None
    ) -> list[dict[str, Any]]:
        """Micro-batches of this step with what layers keep, as an entry `kept_tokens` that `model(**batch)` takes.

            parts = merak.pipeline.microbatches.split(batch, plan.microbatches)
            engine.train_step(ltd.with_indices(parts, engine.dp_rank * plan.microbatches))
            ltd.step()

        Where all tokens of all of them are kept, they have none: a graph without dropping serves from then on.

        Args:
            first: the first one's number, counted over all ranks.
            length: tokens of a sequence, as layers see them; by default those of `input_ids`.
        """
        lengths = [length or _tokens_of(batch) for batch in microbatches]
        if all(self.kept(one) >= one for one in lengths):
            self._whole_step = self.current_step
            return [dict(batch) for batch in microbatches]
        made = []
        for number, batch in enumerate(microbatches):
            some, tokens = _some_tensor(batch), lengths[number]
            draw = partial(keep_tokens, len(some), tokens, self.kept(tokens), seed=self.seed, step=self.current_step)
            draw = partial(draw, microbatch=first + number, device=some.device)
            indices = [draw(layer=layer) for layer in range(len(self.layers))]
            made.append({**batch, KEPT_TOKENS: torch.stack(indices, dim=1)})
        return made

    def index_of(self, number: int, hidden: torch.Tensor) -> torch.Tensor | None:
        """What a layer keeps of these hidden states, now; None for all.

        Raises:
            ValueError: the model is being captured, and the batch has no indices.
        """
        if not self.model.training:
            return None
        if self._given is not None:
            return self._given.get(number)
        sequences, length = hidden.shape[:2]
        if torch.compiler.is_exporting():
            if self._whole_step == self.current_step or self.schedule.keeps_all(self.current_step):
                return None
            raise ValueError(
                "a captured graph would keep the same tokens at every step: give the example and the batches of "
                "ltd.with_indices(...), whose `kept_tokens` say which"
            )
        kept = self.kept(length)
        if kept >= length:
            return None
        return keep_tokens(
            sequences,
            length,
            kept,
            seed=self.seed,
            step=self.current_step,
            microbatch=max(self._microbatch, 0) * self.world_size + self.rank,
            layer=number,
            device=hidden.device,
        )

    def remove(self) -> None:
        """Makes the layers what they were."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            if isinstance(layer, _Dropping):
                layer.__class__ = kind_of(layer)  # type: ignore[assignment]
                for name in ("_merak_ltd", "_merak_number", "_merak_names"):
                    layer.__dict__.pop(name, None)

    def state_dict(self) -> dict[str, int]:
        """Which step is next. Indices need no more."""
        return {"step": self.current_step, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on from there, at the step's first micro-batch."""
        self.seed = state["seed"]
        self.at(state["step"])

    def _begin_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if KEPT_TOKENS not in kwargs:
            if module.training and not torch.compiler.is_exporting():
                self._microbatch += 1
            return None
        indices = kwargs[KEPT_TOKENS]
        if indices.dim() != 3 or indices.shape[1] != len(self.layers):
            raise ValueError(
                f"kept_tokens is {list(indices.shape)}; it must be [sequences, layers, kept], of {len(self.layers)} "
                "layers: see with_indices"
            )
        self._given = {number: indices[:, number] for number in range(len(self.layers))}
        return args, {name: value for name, value in kwargs.items() if name != KEPT_TOKENS}

    def _end_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        self._given = None


def _tokens_of(batch: Mapping[str, Any]) -> int:
    found = next((batch[name] for name in _WITH_TOKENS if name in batch), None)
    if found is None:
        raise ValueError(f"how many tokens a sequence has is not known, of {', '.join(batch)}: say length=...")
    return int(found.shape[1])


def _some_tensor(batch: Mapping[str, Any]) -> torch.Tensor:
    """One with rows."""
    found = next((value for value in batch.values() if isinstance(value, torch.Tensor) and value.dim()), None)
    if found is None:
        raise ValueError("a batch without tensors has no rows to drop tokens of")
    return found


def _make_drop(layer: nn.Module, ltd: RandomLTD, number: int) -> None:
    names = tuple(
        parameter.name
        for parameter in inspect.signature(layer.forward).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )
    if not names:
        raise ValueError(f"{type(layer).__name__} takes no hidden states first: it cannot drop tokens")
    kind = type(layer)
    # A subclass, not a wrapper: the model's structure, its state dict and isinstance stay as they are.
    layer.__class__ = type(
        f"RandomLTD{kind.__name__}", (_Dropping, kind), {"__module__": kind.__module__, "_merak_kind": kind}
    )
    layer.__dict__.update(_merak_ltd=ltd, _merak_number=number, _merak_names=names)


def _refuse_attention(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    attention = str(getattr(config, "_attn_implementation", ""))
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if "flex" in attention or ("flash" in attention and windows):
        raise ValueError(
            f"attention is {attention!r}, which is told of windows and documents by places among the tokens it gets; "
            "where some are dropped these are others. Load the model with attn_implementation='sdpa' or 'eager'"
        )
