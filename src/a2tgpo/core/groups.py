"""Normalise by group: gains against the same prompt's gains, outcomes against the same prompt's outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_shapes, check_values, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Pool = Literal["turn", "prompt"]
Baseline = Literal["survivors", "absorbing", "active"]
Std = Literal["population", "sample"]


def normalize_turn_groups(
    gain: Float[Tensor, "B T"],
    is_process: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    *,
    pool: Pool = "turn",
    baseline: Baseline = "survivors",
    eps: float = 1e-6,
    valid: Bool[Tensor, " B"] | None = None,
    is_turn: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Return ĝ = (ig − mean G) / (std G + eps), G the gains of one prompt at one depth (A²TGPO, arXiv 2605.06200).

    The standard deviation is the population's. A group of one gives 0, as does a group of equal gains.

    Args:
        gain: information gains; values off process turns are ignored.
        is_process: turns that have a gain.
        group: the prompt of each rollout, an index in 0..B−1.
        pool: "turn" makes a group of prompt and depth; "prompt" pools all process turns of a prompt (IGPO).
        baseline: "survivors" compares with the rollouts that have a process turn at that depth. "absorbing"
            also counts, as a gain of 0, each rollout of the prompt that is past its last process turn, and
            scores that 0 too: who stopped is compared with who went on. "active" counts and scores the 0 only
            where the rollout stopped, on the turn behind its last process turn (docs/baselines.md).
        eps: a positive number, far below the spread of gains that means something; a larger one keeps groups
            whose gains hardly differ from being blown up to ±1.
        valid: rollouts that take part; the others enter no statistics, get 0 and may hold NaN.
        is_turn: turns that exist, by default all; "active" scores no other, so that a rollout which was cut off
            behind its last process turn did not stop.

    Returns:
        Normalised gains, in standard deviations; 0 off process turns and what "absorbing" and "active" score beside.

    Raises:
        ValueError: mismatched shapes, a gain that is not finite, a group outside 0..B−1, an unknown option.
    """
    check_choice("pool", pool, get_args(Pool))
    check_choice("baseline", baseline, get_args(Baseline))
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    check_shapes(
        gain=(gain, "float B T"),
        is_process=(is_process, "bool B T"),
        group=(group, "long B"),
        valid=(valid, "bool B"),
    )
    check_groups(group)
    is_process = is_process & valid[:, None]
    gain = full_precision(gain)
    check_values(
        "gain",
        gain,
        gain.isfinite() | ~is_process,
        "a process turn needs a finite gain; score the turn, unset is_process, or mark the rollout not valid",
    )

    is_turn = torch.ones_like(is_process) if is_turn is None else is_turn
    check_shapes(is_process=(is_process, "bool B T"), is_turn=(is_turn, "bool B T"))
    sample = compared_turns(is_process, group, valid, baseline, is_turn)
    cell = turn_cells(group, gain.shape[1]) if pool == "turn" else group[:, None].expand_as(gain)
    return standard_scores(torch.where(is_process, gain, 0), sample, cell, gain.numel(), eps)


def normalize_outcome(
    outcome: Float[Tensor, " B"],
    group: Int[Tensor, " B"],
    *,
    eps: float = 1e-6,
    valid: Bool[Tensor, " B"] | None = None,
    std: Std = "population",
) -> Float[Tensor, " B"]:
    """Return R̂ = (R − mean) / (std + eps) over the rollouts of one prompt; a prompt with one rollout gives 0.

    Args:
        outcome: the reward of each rollout.
        group: the prompt of each rollout, an index in 0..B−1.
        eps: a positive number far below the spread of outcomes that means something.
        valid: rollouts that take part; the others enter no statistics, get 0 and may hold NaN.
        std: "population" divides the squares by n (A²TGPO, IGPO), "sample" by n − 1 (verl's GRPO, Tree-GRPO).

    Returns:
        Normalised outcomes, in standard deviations.

    Raises:
        ValueError: mismatched shapes, an outcome that is not finite, a group outside 0..B−1, an unknown option.
    """
    check_choice("std", std, get_args(Std))
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    check_shapes(outcome=(outcome, "float B"), group=(group, "long B"), valid=(valid, "bool B"))
    check_groups(group)
    outcome = full_precision(outcome)
    check_values(
        "outcome",
        outcome,
        outcome.isfinite() | ~valid,
        "a reward must be a finite number; fix the reward function or mark the rollout not valid",
    )
    return standard_scores(outcome, valid, group, len(group), eps, std)


def compared_turns(
    is_process: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    baseline: Baseline,
    is_turn: Bool[Tensor, "B T"],
) -> Bool[Tensor, "B T"]:
    """Mark the turns a turn group holds: process turns, with "absorbing" also the depths past a rollout's last one,
    with "active" the first of those if it is a turn.

    A depth that no rollout of the prompt reached is no group.
    """
    if baseline == "survivors":
        return is_process
    past = is_process.long().flip(1).cumsum(1).flip(1) == 0
    peers = torch.zeros_like(past, dtype=torch.long).index_add(0, group, is_process.long())[group]
    added = past & (peers > 0) & valid[:, None]
    if baseline == "active":
        first = past & ~torch.nn.functional.pad(past[:, :-1], (1, 0))
        added = added & first & is_turn
    return is_process | added


def turn_cells(group: Int[Tensor, " B"], n_turns: int) -> Int[Tensor, "B T"]:
    """Number the cells of prompt and depth."""
    return group[:, None] * n_turns + torch.arange(n_turns, device=group.device)


def standard_scores(
    value: Float[Tensor, "*N"],
    sample: Bool[Tensor, "*N"],
    cell: Int[Tensor, "*N"],
    n_cells: int,
    eps: float,
    std: Std = "population",
    *,
    variance_eps: float = 0.0,
) -> Float[Tensor, "*N"]:
    """Return (value − mean) / (√(variance + variance_eps) + eps) of each cell's sampled elements; 0 elsewhere."""
    deviation = centred(value, sample, cell, n_cells)
    variance = cell_mean(deviation.square(), sample, cell, n_cells)
    if std == "sample":
        size = cell_sum(sample.to(value.dtype), cell, n_cells)[cell]
        variance = variance * size / (size - 1).clamp(min=1)
    return deviation / ((variance + variance_eps).sqrt() + eps)


def centred(
    value: Float[Tensor, "*N"], sample: Bool[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int
) -> Float[Tensor, "*N"]:
    """Return value − mean of the sampled elements of each cell; 0 elsewhere."""
    # Measured from the lowest element, equal values, and a value alone, are at exactly 0: the rounding of a
    # mean far from 0 would otherwise be divided by a std of nearly 0 and come out as credit.
    lowest = torch.full((n_cells,), torch.inf, dtype=value.dtype, device=value.device).scatter_reduce(
        0, cell.flatten(), torch.where(sample, value, torch.inf).flatten(), "amin"
    )
    height = torch.where(sample, value - lowest[cell], 0)
    return torch.where(sample, height - cell_mean(height, sample, cell, n_cells), 0)


def cell_mean(
    value: Float[Tensor, "*N"], sample: Bool[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int
) -> Float[Tensor, "*N"]:
    """Return on every element the mean of its cell's sampled elements; 0 in a cell without any."""
    size = cell_sum(sample.to(value.dtype), cell, n_cells)
    return (cell_sum(torch.where(sample, value, 0), cell, n_cells) / size.clamp(min=1))[cell]


def cell_sum(value: Float[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int) -> Float[Tensor, " cells"]:
    """Return the sum of each cell's elements."""
    return value.new_zeros(n_cells).index_add(0, cell.flatten(), value.flatten())


def dense_cells(key: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """Number the distinct keys 0, 1, ...: the same number where the key is the same."""
    order = key.flatten().argsort()
    ascending = key.flatten()[order]
    rank = torch.nn.functional.pad(ascending[1:] != ascending[:-1], (1, 0)).cumsum(dim=0)
    return torch.empty_like(rank).scatter(0, order, rank).view_as(key)


def check_groups(group: Int[Tensor, " B"]) -> None:
    """Raise ValueError for a prompt outside 0..B−1."""
    check_values(
        "group",
        group,
        (group >= 0) & (group < len(group)),
        f"number the prompts of this batch of {len(group)} rollouts from 0 to {len(group) - 1}",
    )
