"""Credit of a generation batch over all processes.

A prompt's rollouts may lie on several processes, so gains and outcomes are gathered before any group statistic is
taken; each process then keeps its own rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.core import information_gain, turn_credit
from a2tgpo.scoring import Scores

if TYPE_CHECKING:
    from accelerate import Accelerator

    from a2tgpo.integrations.trl_config import A2TGPOConfig


@dataclass(frozen=True)
class BatchCredit:
    """Per-turn quantities of B rollouts, T turns at most.

    `valid` is False for a rollout that teaches nothing: the tool failed it, or TRL masked it as truncated.
    """

    likelihood: Float[Tensor, "B T+1"]
    gain: Float[Tensor, "B T"]
    is_process: Bool[Tensor, "B T"]
    n_turns: Int[Tensor, " B"]
    outcome: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    normalized_gain: Float[Tensor, "B T"]
    advantage: Float[Tensor, "B T"]
    clip_scale: Float[Tensor, "B T"]

    def local(self, process_index: int) -> BatchCredit:
        """The rows of one process (each holds equally many, in order)."""
        rows = slice(process_index * self._rows_per_process, (process_index + 1) * self._rows_per_process)
        return BatchCredit(**{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name[0] != "_"})

    _rows_per_process: int = 0


def assign_credit(
    accelerator: Accelerator,
    scores: Scores,
    outcome: Float[Tensor, " global_B"],
    group_size: int,
    has_tokens: Bool[Tensor, " B"],
    args: A2TGPOConfig,
) -> BatchCredit:
    """Gather the local `scores` and give every turn of the global batch its credit.

    Args:
        outcome: weighted rewards of the global batch; NaN where no reward function scored the rollout.
        group_size: rollouts per prompt, consecutive in the global batch.
        has_tokens: False where no token of the rollout may be trained on.
    """
    bounds = scores.boundaries

    def everywhere(rows: Tensor) -> Tensor:
        return accelerator.gather(accelerator.pad_across_processes(rows, dim=1) if rows.dim() > 1 else rows)

    likelihood = everywhere(scores.likelihood)
    is_process = everywhere(bounds.is_process.long()).bool()
    n_turns = everywhere(bounds.n_turns)
    valid = everywhere(has_tokens.long()).bool() & ~torch.isnan(outcome)
    gain = information_gain(likelihood, is_process)
    counted = is_process.clone()
    if args.skip_first_gain:
        counted[:, 0] = False
    if args.drop_zero_gains:
        counted &= gain != 0
    credit = turn_credit(
        gain,
        is_process,
        outcome,
        torch.arange(len(outcome), device=outcome.device) // group_size,
        gamma=args.turn_gamma,
        alpha=args.gain_alpha,
        beta=args.clip_beta,
        n_turns=n_turns,
        counted=counted,
        valid=valid,
    )
    return BatchCredit(
        likelihood=likelihood,
        gain=gain,
        is_process=is_process,
        n_turns=n_turns,
        outcome=outcome,
        valid=valid,
        normalized_gain=credit.normalized_gain,
        advantage=credit.advantage,
        clip_scale=credit.clip_scale,
        _rows_per_process=len(has_tokens),
    )
