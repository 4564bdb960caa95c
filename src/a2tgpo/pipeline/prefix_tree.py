"""Which rollouts of a prompt share turns, as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.rollout.types import Rollout

if TYPE_CHECKING:
    from jaxtyping import Int


def family(
    rows: Sequence[Mapping[str, Any]], n_turns: Int[Tensor, " B"], n_columns: int
) -> tuple[Int[Tensor, " B"], Int[Tensor, "B T"]]:
    """The tree of each row's rollout, and the sampled turn behind each of its turns, −1 past its last.

    Args:
        n_turns: the turns that TRL's masks leave of each rollout: all, or none of one that it counts as truncated.

    Raises:
        ValueError: a row without our record of its rollout.
    """
    tree = torch.zeros(len(rows), dtype=torch.long)
    node = torch.full((len(rows), n_columns), -1)
    for row, (fields, left) in enumerate(zip(rows, n_turns.tolist(), strict=True)):
        rollout = fields.get("rollout")
        if not isinstance(rollout, Rollout):
            raise ValueError(
                f"row {row} has rollout={rollout!r}: this method needs to know which turns rollouts share; pass "
                "rollout_func=TagRollout(...) with the method's sampling"
            )
        tree[row] = rollout.tree
        node[row, :left] = torch.tensor(rollout.nodes[:left], dtype=torch.long)
    return tree.to(n_turns.device), node.to(n_turns.device)


def renumbered(node: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The same sampled turns under numbers below B·T, which a batch whose columns were masked can exceed."""
    sampled = node >= 0
    _, number = node[sampled].unique(return_inverse=True)
    return torch.full_like(node, -1).masked_scatter(sampled, number)
