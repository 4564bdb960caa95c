"""Time an update whose rollouts share tokens: packed by their prefixes, and as rows of their own.

    python benchmarks/prefix_cost.py --json prefix_cost.json

Forward and backward of one micro-batch: 16 rollouts of one prompt of 2,000 tokens, and two trees that branch twice
(M = N = 2: six rollouts of a prompt, which leave their tree's first after two turns and after three). Log-probabilities
and gradients of both ways must agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure import Case, measure, print_cases, write_json
from gain_cost import SHAPES
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from a2tgpo.pipeline.likelihood import read_update
from a2tgpo.pipeline.shared_prefix import SharedPrefix

ALONE, PACKED = "rows of their own", "packed by prefix"
FIND = SharedPrefix.find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--model", default="smollm2", choices=tuple(SHAPES), help="random weights of this shape")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has, and as many fewer words")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every repeat to this file")
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how fast")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.repeats = "tiny", 1
    device = torch.device(arguments.device)
    config = SHAPES[arguments.model]
    if arguments.layers:
        # The output head keeps its share of the operations.
        config.vocab_size = max(512, config.vocab_size * arguments.layers // config.num_hidden_layers)
        config.num_hidden_layers = arguments.layers
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    scale = 20 if arguments.smoke else 1
    cases = [
        case("16 rollouts of a prompt of 2,000 tokens", model, *prompt_shared(scale), arguments.repeats),
        case("trees of M = N = 2, one prompt", model, *trees(scale), arguments.repeats),
    ]
    title = f"An update with shared prefixes, {arguments.model}, {config.num_hidden_layers} layers, on {device}"
    print_cases(title, cases)
    if arguments.json:
        write_json(arguments.json, title, cases)


def prompt_shared(scale: int) -> tuple[list[int], list[list[int]]]:
    """Draw a prompt of 2,000 tokens and 16 completions of 200 to 350."""
    prompt, *completions = drawn([2000 // scale, *((200 + 10 * row) // scale for row in range(16))])
    return prompt, completions


def trees(scale: int, turn: int = 150) -> tuple[list[int], list[list[int]]]:
    """Draw a prompt of 60 tokens; two rollouts of four turns, each left by two behind its second and third."""
    prompt, *drawn_turns = drawn([60 // scale, *([4 * turn // scale] * 6)])
    completions = []
    for first in (0, 3):
        stem, *others = drawn_turns[first : first + 3]
        left = [n * turn // scale for n in (2, 3)]
        completions += [stem, *(stem[:n] + other[n:] for n, other in zip(left, others, strict=True))]
    return prompt, completions


def drawn(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(10, 500, (length,), generator=generator).tolist() for length in lengths]


def case(name: str, model: Any, prompt: list[int], completions: list[list[int]], repeats: int) -> Case:
    """Time both ways; what the last runs found must agree."""
    columns = micro_batch(prompt, completions, model.device)
    written = columns["completion_mask"].bool()
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def update(way: str, find: Callable[..., Any]) -> None:
        SharedPrefix.find = find  # type: ignore[method-assign]
        model.zero_grad(set_to_none=True)
        logps = read_update(model, columns, written, nullcontext).logps
        logps.sum().backward()
        found[way] = logps.detach(), model.get_input_embeddings().weight.grad

    ways = {ALONE: partial(update, ALONE, lambda *_: None), PACKED: partial(update, PACKED, FIND)}
    # The CPU has nothing to warm up that would be seen beside an update.
    seconds = measure(ways, model.device, repeats=repeats, warmup=int(model.device.type != "cpu"))
    (alone, their_grad), (packed, our_grad) = found[ALONE], found[PACKED]
    errors = {
        "log-probabilities differ by": (alone - packed).abs().max().item(),
        "gradients differ by, of the largest": ((their_grad - our_grad).abs().max() / their_grad.abs().max()).item(),
    }
    exact = model.dtype == torch.float32
    assert max(errors.values()) < (1e-4 if exact else 0.3), f"the two ways differ: {errors}"
    ids, mask = (
        torch.cat([columns[f"prompt_{part}"], columns[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
    )
    tree = FIND(ids, mask, model.config)
    n_run = ids.numel() if tree is None else tree.input_ids.numel()  # it need not pay for every shape
    facts = errors | {"tokens": ids.numel(), "packed tokens": n_run}
    notes = {"tokens run": f"{n_run} in place of {ids.numel()}"} | {what: f"{e:.1e}" for what, e in errors.items()}
    return Case(name, seconds, ALONE, notes, facts)


def micro_batch(prompt: list[int], completions: list[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Return TRL's columns; every token is the policy's."""
    width = max(map(len, completions))
    found = {
        "prompt_ids": torch.tensor([prompt] * len(completions)),
        "prompt_mask": torch.ones(len(completions), len(prompt), dtype=torch.long),
        "completion_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in completions]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in completions]),
    }
    return {name: value.to(device) for name, value in found.items()}


if __name__ == "__main__":
    main()
