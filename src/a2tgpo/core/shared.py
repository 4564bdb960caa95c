"""Turns that several rollouts of a tree share: each counts once in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, check_values
from a2tgpo.core._scores import cell_mean, dense_cells
from a2tgpo.core.credit.batch import TurnCredit

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


def count_once(
    credit: TurnCredit,
    node: Int[Tensor, "B T"],
    group: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"] | None = None,
) -> tuple[TurnCredit, Bool[Tensor, "B T"]]:
    """Give every sampled turn one owner, the first rollout that passes through it, and the mean credit of all of them.

    The turn was sampled once, and each rollout through it shows one way it went on: the mean of their advantages
    estimates what the turn was worth, with less noise than any of them. Counted in every rollout instead, one
    sample would be pushed and clipped as often as its tree has leaves below it. What this changes: the turns
    below a branch, of which there are more, weigh more beside the shared ones than the policy would visit them.

    Args:
        credit: the credit of each turn of each rollout.
        node: the sampled turn: rollouts of one prompt that share turn t have the same index there, in 0..B·T−1;
            −1 on padding.
        group: the prompt of each rollout, an index in 0..B−1.
        valid: rollouts to learn from, by default all. The others neither own a turn nor enter a mean.

    Returns:
        The credit with the mean advantage and clip scale on every shared turn, and the turns each rollout owns:
        pass these to `policy_loss(owned=...)`. A turn of rollouts that are not valid has no owner.

    Raises:
        ValueError: mismatched shapes, or a node outside −1..B·T−1.
    """
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    check_shapes(
        advantage=(credit.advantage, "float B T"),
        node=(node, "long B T"),
        group=(group, "long B"),
        valid=(valid, "bool B"),
    )
    n_rollouts, n_turns = node.shape
    n_cells = node.numel()
    check_values(
        "node", node, (node >= -1) & (node < n_cells), f"number a prompt's sampled turns from 0 to {n_cells - 1}"
    )
    depth = group[:, None] * n_turns + torch.arange(n_turns, device=node.device)
    cell = dense_cells(depth * (n_cells + 1) + node + 1)
    passes = (node >= 0) & valid[:, None]
    row = torch.arange(n_rollouts, device=node.device)[:, None].expand_as(node)
    first = torch.full_like(cell.flatten(), n_rollouts).scatter_reduce(
        0, cell.flatten(), torch.where(passes, row, n_rollouts).flatten(), "amin"
    )
    shared = credit._replace(
        advantage=torch.where(passes, cell_mean(credit.advantage, passes, cell, n_cells), credit.advantage),
        clip_scale=torch.where(passes, cell_mean(credit.clip_scale, passes, cell, n_cells), credit.clip_scale),
    )
    return shared, row == first[cell]
