"""Time credit and loss: `a2tgpo.core` against plain loops over rollouts, turns and tokens.

    python benchmarks/loss_cost.py --device cuda --json loss_cost.json

Credit is `turn_credit` on 1,024 rollouts of up to 7 turns. The loss is `policy_loss`, forward and backward towards the
log-probabilities, on 8 rollouts of 6,192 tokens. The loops below are written from the equations and share nothing with
core; both must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _measure import Case, Variant, floors, measure, print_cases, synchronize, write_json
from torch import Tensor

from a2tgpo import core

EPS_LOW, EPS_HIGH, BETA, STD_FLOOR = 3e-3, 4e-3, 0.3, 1e-6
N_TURNS = 7


@dataclass(frozen=True)
class Size:
    """Say how much is measured: the sizes of the claim, or small ones that only show that everything runs."""

    credit_rollouts: int = 1024
    loss_rollouts: int = 8
    tokens: int = 6192
    repeats: int = 5


SMOKE = Size(credit_rollouts=16, loss_rollouts=2, tokens=140, repeats=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="write every repeat to this file")
    parser.add_argument("--smoke", action="store_true", help="small sizes: shows that it runs, not how fast")
    arguments = parser.parse_args()
    size, device = SMOKE if arguments.smoke else Size(), torch.device(arguments.device)
    title = f"Credit and loss on {device}"
    cases = [credit_case(size, device), loss_case(size, device)]
    print_cases(title, cases)
    if arguments.json:
        write_json(arguments.json, title, cases)


def credit_case(size: Size, device: torch.device) -> Case:
    """Time advantages and clip scales of a batch of eight rollouts per prompt."""
    n_rollouts, generator = size.credit_rollouts, torch.Generator().manual_seed(0)
    n_turns = torch.randint(1, N_TURNS + 1, (n_rollouts,), generator=generator)
    inputs = {
        "gain": torch.randn(n_rollouts, N_TURNS, generator=generator),
        "is_process": torch.arange(N_TURNS) < (n_turns - 1)[:, None],
        "outcome": torch.randint(0, 2, (n_rollouts,), generator=generator).float(),
        "group": torch.arange(n_rollouts) // 8,
        "n_turns": n_turns,
    }
    lists = {name: value.tolist() for name, value in inputs.items()}
    on_device = {name: value.to(device) for name, value in inputs.items()}

    credit, (advantage, scale) = core.turn_credit(**on_device), loop_credit(**lists)
    error = max(_error(credit.advantage, advantage), _error(credit.clip_scale, scale))
    assert error < 1e-4, f"core and the loop differ by {error}"

    seconds = measure(
        {
            "core": timed("core", lambda: core.turn_credit(**on_device), device, untimed=1),
            "loop": timed("loop", lambda: loop_credit(**lists), device),
        },
        device,
        repeats=size.repeats,
    )
    cells = n_rollouts * N_TURNS
    # Reads a gain and a flag, writes three values per turn; reads three values per rollout.
    bounds = floors(cells * (4 + 1 + 3 * 4) + n_rollouts * (4 + 8 + 8), 20 * cells, device)
    return Case(f"credit, {n_rollouts:,} rollouts × {N_TURNS} turns", seconds, "loop", bounds, {"error": error})


def loss_case(size: Size, device: torch.device) -> Case:
    """Time loss and gradient of rollouts in which a third of the tokens is written by tools."""
    shape, generator = (size.loss_rollouts, size.tokens), torch.Generator().manual_seed(0)
    model_mask = (torch.arange(size.tokens) % (size.tokens // N_TURNS + 1) < size.tokens // N_TURNS * 2 // 3).expand(
        shape
    )
    old_logp = -3 * torch.rand(shape, generator=generator)
    logp = old_logp + 0.05 * torch.randn(shape, generator=generator)
    advantage = torch.randn(size.loss_rollouts, N_TURNS, generator=generator)
    scale = 1 + BETA * (2 * torch.rand(size.loss_rollouts, N_TURNS, generator=generator) - 1)
    turn_ids = core.turn_ids(model_mask)
    lists = turn_ids.tolist(), advantage.tolist(), scale.tolist()
    inputs = [tensor.to(device) for tensor in (old_logp, turn_ids, advantage, scale)]

    def ours() -> tuple[Tensor, Tensor]:
        leaf = logp.to(device, copy=True).requires_grad_()
        loss = core.policy_loss(leaf, *inputs, eps_low=EPS_LOW, eps_high=EPS_HIGH).loss
        return loss, torch.autograd.grad(loss, leaf)[0]

    def loop() -> tuple[Tensor, Tensor]:
        leaf = logp.to(device, copy=True).requires_grad_()
        loss = loop_loss(leaf, inputs[0], *lists)
        return loss, torch.autograd.grad(loss, leaf)[0]

    (loss, grad), (loop_value, loop_grad) = ours(), loop()
    error = max((loss - loop_value).abs().item(), (grad - loop_grad).abs().max().item())
    assert error < 1e-5, f"core and the loop differ by {error}"

    seconds = measure(
        {"core": timed("core", ours, device, untimed=1), "loop": timed("loop", loop, device)},
        device,
        repeats=size.repeats,
    )
    # Reads two log-probabilities and a turn per token, writes a gradient.
    n_tokens = math.prod(shape)
    bounds = floors(n_tokens * (4 + 4 + 8 + 4), 20 * n_tokens, device)
    facts = {"error": error, "model_tokens": int(model_mask.sum())}
    return Case(f"loss and gradient, {shape[0]} × {shape[1]:,} tokens", seconds, "loop", bounds, facts)


def loop_credit(
    gain: list, is_process: list, outcome: list, group: list, n_turns: list
) -> tuple[list[list[float]], list[list[float]]]:
    """Give advantages and clip scales, one rollout and one turn at a time."""
    members: dict[int, list[int]] = {}
    for i, prompt in enumerate(group):
        members.setdefault(prompt, []).append(i)
    advantages, scales = [], []
    for i, prompt in enumerate(group):
        normalized = []
        for t in range(N_TURNS):
            peers = [gain[j][t] for j in members[prompt] if is_process[j][t]]
            normalized.append(loop_score(gain[i][t], peers) if is_process[i][t] else 0.0)
        reward = loop_score(outcome[i], [outcome[j] for j in members[prompt]])
        row = []
        for t in range(N_TURNS):
            terms = [normalized[k] for k in range(t, N_TURNS) if is_process[i][k]]
            process = sum(terms) / math.sqrt(len(terms)) if is_process[i][t] else 0.0
            row.append(process + reward if t < n_turns[i] else 0.0)
        advantages.append(row)
        scales.append([1 + BETA * (2 / (1 + math.exp(-x)) - 1) for x in normalized])
    return advantages, scales


def loop_score(value: float, peers: list[float]) -> float:
    """Count how many standard deviations a value lies above the mean of its group."""
    mean = sum(peers) / len(peers)
    std = math.sqrt(sum((peer - mean) ** 2 for peer in peers) / len(peers))
    return (value - mean) / (std + STD_FLOOR)


def loop_loss(logp: Tensor, old_logp: Tensor, turn_ids: list[list[int]], advantage: list, scale: list) -> Tensor:
    """Compute the loss token by token: each turn's ratio from its tokens, then one clipped term after another."""
    total = logp.new_zeros(())
    for i, turns in enumerate(turn_ids):
        positions: dict[int, list[int]] = {}
        for j, turn in enumerate(turns):
            if turn >= 0:
                positions.setdefault(turn, []).append(j)
        rollout = logp.new_zeros(())
        for turn, tokens in positions.items():
            change = logp.new_zeros(())
            for j in tokens:
                change = change + (logp[i, j] - old_logp[i, j])
            ratio = (change / len(tokens)).exp()
            low, high = 1 - scale[i][turn] * EPS_LOW, 1 + scale[i][turn] * EPS_HIGH
            for _ in tokens:
                a = advantage[i][turn]
                rollout = rollout + torch.minimum(ratio * a, ratio.clamp(low, high) * a)
        total = total + rollout / sum(map(len, positions.values()))
    return -total / len(turn_ids)


def timed(name: str, run: Callable[[], object], device: torch.device, untimed: int = 0) -> Variant:
    """Return a variant that runs `untimed` times before the clock starts.

    Core needs one such run: the first after a loop pays for merging the loop's million freed blocks.
    """

    def variant() -> dict[str, float]:
        for _ in range(untimed):
            run()
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        return {name: time.perf_counter() - start}

    return variant


def _error(actual: Tensor, expected: list[list[float]]) -> float:
    return (actual.cpu() - torch.tensor(expected)).abs().max().item()


if __name__ == "__main__":
    main()
