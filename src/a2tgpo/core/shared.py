"""Compute turns that several rollouts share once, with the weight of all of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, check_values, full_precision
from a2tgpo.core.groups import cell_mean, cell_sum, dense_cells
from a2tgpo.core.turn_batch import TurnCredit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class SharedCredit(NamedTuple):
    """Hold the credit of turns that are computed once, in the row of one of the rollouts through them.

    A turn of a row that does not compute it has weight 0. Two rollouts of 5 turns of 10 tokens that share the first 4,
    with advantages +1 and −2 (equal lengths, so that each rollout through a turn weighs 1):

        positive  [[ 1,  1,  1,  1, 1], [0, 0, 0, 0,  0]]
        negative  [[−2, −2, −2, −2, 0], [0, 0, 0, 0, −2]]
        weight    [[ 2,  2,  2,  2, 1], [0, 0, 0, 0,  1]]

    Divided by the 100 tokens of both rollouts a shared token weighs .02, any other .01.
    """

    positive: Float[Tensor, "B T"]
    """Σ w·max(Â, 0) over the rollouts through the turn."""
    negative: Float[Tensor, "B T"]
    """Σ w·min(Â, 0) over them."""
    weight: Float[Tensor, "B T"]
    """Σ w over them."""
    clip_scale: Float[Tensor, "B T"]
    """Mean of their clip scales."""


def share_turns(
    credit: TurnCredit,
    node: Int[Tensor, "B T"],
    group: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"] | None = None,
    *,
    n_tokens: Int[Tensor, " B"] | None = None,
) -> SharedCredit:
    """Sum the credit of every sampled turn over the rollouts through it, so that it need be computed in one row only.

    A tree's published loss lets every leaf count its whole path: a shared token appears once for each leaf below it,
    with the same ratio s. For one sign of Â the clipped objective is Â times a function of s, so the leaves' sum is
    that of Σ max(Â, 0) and of Σ min(Â, 0), and

        policy_loss(logp, old_logp, turn_ids, shared.positive, shared.clip_scale, negative=shared.negative,
                    turn_weight=shared.weight, ...)

    has the published value and gradient at the cost of each sampled token once. What is needed for it:

    - one ratio for all leaves: of the token or of the turn, not of the sequence;
    - one clip scale. Leaves agree on it where a scale depends on the turn and what is before it, as in every rule here:
      a shared turn has one gain. Where a user's rule disagrees, the turn has the mean of the scales;
    - an update that holds a turn's row holds its weight of all leaves, also of leaves in another update.

    Args:
        credit: the credit of each turn of each rollout.
        node: the sampled turn: rollouts of one prompt that share turn t have the same index there, in 0..B·T−1;
            −1 on padding.
        group: the prompt of each rollout, an index in 0..B−1.
        valid: rollouts to learn from, by default all. The others weigh nothing and compute nothing.
        n_tokens: the model tokens of each rollout, for a loss that averages per rollout: a leaf of m tokens then
            weighs n/m in a row of n. By default every leaf weighs 1, for the mean over tokens.

    Returns:
        The sums, in the row of the first valid rollout through each turn; 0 in the others.

    Raises:
        ValueError: mismatched shapes, or a node outside −1..B·T−1.
    """
    passes, cell, owned = _sharing(credit, node, group, valid)
    advantage, scale = full_precision(credit.advantage), full_precision(credit.clip_scale)
    length = torch.ones_like(advantage[:, 0])
    if n_tokens is not None:
        check_shapes(node=(node, "long B T"), n_tokens=(n_tokens, "long B"))
        length = n_tokens.clamp(min=1).to(advantage.dtype)

    def summed(value: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        total = cell_sum(torch.where(passes, value / length[:, None], 0), cell, node.numel())[cell]
        return torch.where(owned, total * length[:, None], 0)

    return SharedCredit(
        positive=summed(advantage.clamp(min=0)),
        negative=summed(advantage.clamp(max=0)),
        weight=summed(torch.ones_like(advantage)),
        clip_scale=torch.where(owned, cell_mean(scale, passes, cell, node.numel()), 1),
    )


def count_once(
    credit: TurnCredit,
    node: Int[Tensor, "B T"],
    group: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"] | None = None,
) -> tuple[TurnCredit, Bool[Tensor, "B T"]]:
    """Give every sampled turn one owner, the first rollout that passes through it, and the mean credit of all of them.

    Deprecated, and gone with 0.3: no published method counts a sampled turn once, however many leaves are below it.
    `share_turns` counts as they do, and the trainers use it.

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
    warnings.warn(
        "core.count_once goes with 0.3: no method counts turns so; use core.share_turns, and policy_loss(negative=, "
        "turn_weight=)",
        DeprecationWarning,
        stacklevel=2,
    )
    passes, cell, owned = _sharing(credit, node, group, valid)
    n_cells = node.numel()
    shared = credit._replace(
        advantage=torch.where(passes, cell_mean(credit.advantage, passes, cell, n_cells), credit.advantage),
        clip_scale=torch.where(passes, cell_mean(credit.clip_scale, passes, cell, n_cells), credit.clip_scale),
    )
    return shared, owned


def _sharing(
    credit: TurnCredit, node: Int[Tensor, "B T"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"] | None
) -> tuple[Bool[Tensor, "B T"], Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return which turns take part, the number of the sampled turn behind each, and the first row through each."""
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
    return passes, cell, passes & (row == first[cell])
