"""One JSON line per rollout and update: how far the policy had moved, turn by turn and token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.core import turn_mean

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def updates_of(rollouts: Path) -> Path:
    """The file of updates beside a file of rollouts: `updates_NNNNNN.jsonl` beside `step_NNNNNN.jsonl`."""
    return rollouts.with_name(rollouts.name.replace("step_", "updates_", 1))


@torch.no_grad()
def write_updates(
    rollouts: Path,
    rows: Int[Tensor, " B"],
    step: int,
    log_ratio: Float[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    clipped_turns: Bool[Tensor, "B T"],
) -> None:
    """Append what one micro-batch found; of several lines for a row the last is the latest update.

    `ratio` is exp of the mean of `log_ratio`, log π/π_old, over each turn; `clipped` says whether a bound held any of
    the turn's tokens back; `log_ratio` has one entry per token the policy wrote.

    Args:
        rollouts: the file of the batch's rollouts.
        rows: the line of each rollout in it, from 0.
        step: the update, from 1.
    """
    ratio = turn_mean(log_ratio, turn_ids, clipped_turns.size(1)).exp().tolist()
    n_turns = (turn_ids.amax(dim=1) + 1).tolist()
    written = (turn_ids >= 0).tolist()
    with updates_of(rollouts).open("a", encoding="utf-8") as file:
        for i, (row, clipped, values) in enumerate(
            zip(rows.tolist(), clipped_turns.tolist(), log_ratio.tolist(), strict=True)
        ):
            line: dict[str, Any] = {
                "row": row,
                "step": step,
                "ratio": [round(value, 6) for value in ratio[i][: n_turns[i]]],
                "clipped": clipped[: n_turns[i]],
                "log_ratio": [round(v, 5) for v, mine in zip(values, written[i], strict=True) if mine],
            }
            file.write(json.dumps(line) + "\n")
