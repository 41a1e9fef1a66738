"""What random layerwise token dropping costs, and what it saves: `python -m benchmarks.data.dropping`.

A GPT-2 of Hugging Face's, on one thread, in CPU seconds of the process, so that other load on the machine counts
little; each figure is the least of some repeats, taken in turns. Two tables:

- *layer*: drawing the index, gathering and scattering, with their backward, beside a layer on the kept tokens, with
its; - *step*: forward and backward of the whole model, at each share of kept tokens, by that of all tokens; beside the
same
  ratio of FLOPs, as `merak.data.step_flops` counts them. (The optimizer's step, which knows no tokens, is left out.)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import transformers

from merak import data


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25])
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(
        f"GPT-2, hidden size {options.hidden}, {options.layers} layers, {options.rows} rows of {options.tokens} "
        f"tokens, fp32, one thread; CPU seconds, least of {options.repeats}"
    )
    of_layer(options)
    of_step(options)


def made(options: argparse.Namespace) -> transformers.GPT2LMHeadModel:
    """The model; without dropout, and with few words, so that layers are most of it."""
    config = transformers.GPT2Config(
        n_embd=options.hidden,
        n_layer=options.layers,
        n_head=options.hidden // 64,
        n_positions=options.tokens,
        vocab_size=1000,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).train()


def least_seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """By way, after one run each that does not count."""
    seconds = dict.fromkeys(ways, float("inf"))
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if repeat:
                seconds[name] = min(seconds[name], time.process_time() - begin)
    return seconds


def of_layer(options: argparse.Namespace) -> None:
    """The first table."""
    block = made(options).transformer.h[1]
    full = torch.randn(options.rows, options.tokens, options.hidden, requires_grad=True)
    gradient = torch.randn_like(full)
    whole = torch.randn_like(full, requires_grad=True)

    def all_tokens() -> None:
        whole.grad = None
        block(whole).backward(gradient)

    of_all = least_seconds({"layer": all_tokens}, options.repeats)["layer"]
    print(f"a layer on all {options.tokens} tokens: {of_all:.4f}")
    print(f"{'kept':>6} {'layer':>10} {'index':>10} {'move':>10} {'of layer':>9} {'of a whole one':>15}")
    for share in options.keep:
        kept = int(share * options.tokens)
        part = torch.randn(options.rows, kept, options.hidden, requires_grad=True)
        where = {"seed": 0, "step": 0, "microbatch": 0, "layer": 0}
        index = data.keep_tokens(options.rows, options.tokens, kept, **where)

        def layer(part: torch.Tensor = part) -> None:
            part.grad = None
            block(part).backward(torch.ones_like(part))

        def draw(kept: int = kept, where: dict[str, int] = where) -> None:
            data.keep_tokens(options.rows, options.tokens, kept, **where)

        def move(index: torch.Tensor = index) -> None:
            full.grad = None
            data.apply_to_tokens(torch.nn.Identity(), full, index).backward(gradient)

        found = least_seconds({"layer": layer, "index": draw, "move": move}, options.repeats)
        extra = found["index"] + found["move"]
        print(
            f"{kept:>6} {found['layer']:>10.4f} {found['index']:>10.6f} {found['move']:>10.4f} "
            f"{extra / found['layer']:>9.2%} {extra / of_all:>15.2%}"
        )


def of_step(options: argparse.Namespace) -> None:
    """The second table."""
    model = made(options)
    ids = torch.randint(1000, (options.rows, options.tokens))
    batch = {"input_ids": ids, "labels": ids}
    ltd = data.RandomLTD(model, schedule=data.KeepSchedule.constant(options.tokens))
    flops = data.step_flops(ltd, batch)

    def step(kept: int) -> None:
        ltd.schedule = data.KeepSchedule.constant(kept)
        model.zero_grad()
        model(**batch).loss.backward()

    keeps = [options.tokens, *(int(share * options.tokens) for share in options.keep)]
    ways = {str(kept): (lambda kept=kept: step(kept)) for kept in keeps}
    found = least_seconds(ways, options.repeats)
    all_seconds, all_flops = found[str(options.tokens)], flops(options.rows, options.tokens, options.tokens)
    print(f"{'kept':>6} {'seconds':>10} {'GFLOP':>10} {'time':>7} {'FLOPs':>7} {'off by':>7}")
    for kept in keeps:
        counted = flops(options.rows, options.tokens, kept)
        ratio, predicted = found[str(kept)] / all_seconds, counted / all_flops
        print(
            f"{kept:>6} {found[str(kept)]:>10.3f} {counted / 1e9:>10.1f} {ratio:>7.3f} {predicted:>7.3f} "
            f"{ratio / predicted - 1:>+7.1%}"
        )


if __name__ == "__main__":
    main()
