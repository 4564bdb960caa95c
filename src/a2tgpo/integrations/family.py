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
    rows: Sequence[Mapping[str, Any]], n_columns: int, device: torch.device
) -> tuple[Int[Tensor, " B"], Int[Tensor, "B T"]]:
    """The tree of each row's rollout, and the sampled turn behind each of its turns, −1 past its last.

    Raises:
        ValueError: a row without our record of its rollout.
    """
    tree = torch.zeros(len(rows), dtype=torch.long)
    node = torch.full((len(rows), n_columns), -1)
    for row, fields in enumerate(rows):
        rollout = fields.get("rollout")
        if not isinstance(rollout, Rollout):
            raise ValueError(
                f"row {row} has rollout={rollout!r}: this method needs to know which turns rollouts share; pass "
                "rollout_func=TagRollout(...) with the method's sampling"
            )
        tree[row] = rollout.tree
        node[row, : len(rollout.nodes)] = torch.tensor(rollout.nodes, dtype=torch.long)
    return tree.to(device), node.to(device)
