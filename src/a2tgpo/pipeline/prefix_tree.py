"""Tell which rollouts of a prompt share turns, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.rollout.types import Rollout

if TYPE_CHECKING:
    from jaxtyping import Int


def shared_turns(
    records: Sequence[Rollout | None], n_turns: Int[Tensor, " B"], n_columns: int
) -> tuple[Int[Tensor, " B"], Int[Tensor, "B T"]]:
    """Return the prefix tree of each rollout, and the sampled turn behind each of its turns, −1 past its last.

    Args:
        records: the agent loop's record of each rollout.
        n_turns: turns that the batch's masks leave of each rollout: all, or none of one that counts as truncated.
        n_columns: T.

    Raises:
        ValueError: a rollout without a record.
    """
    tree = torch.zeros(len(records), dtype=torch.long)
    node = torch.full((len(records), n_columns), -1)
    for row, (record, left) in enumerate(zip(records, n_turns.tolist(), strict=True)):
        if record is None:
            raise ValueError(
                f"rollout {row} has no record of the turns it shares, which this method needs; pass "
                "rollout_func=TagRollout(...) with the method's sampling"
            )
        tree[row] = record.tree
        node[row, :left] = torch.tensor(record.nodes[:left], dtype=torch.long)
    return tree.to(n_turns.device), node.to(n_turns.device)


def renumber_nodes(node: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Number the sampled turns below B·T, which those of a batch whose columns were masked can exceed."""
    sampled = node >= 0
    _, number = node[sampled].unique(return_inverse=True)
    return torch.full_like(node, -1).masked_scatter(sampled, number)
