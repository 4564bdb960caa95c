"""The outcome of each rollout of the global batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.core import overlong_penalty
from a2tgpo.rollout.types import Rollout, Termination

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


def tool_failed(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether the tool failed each row's rollout, which then teaches nothing, whatever a reward function says of it."""
    rollouts = [row.get("rollout") for row in rows]
    return [isinstance(r, Rollout) and r.termination is Termination.TOOL_FAILED for r in rollouts]


def weighted(trainer: A2TGPOTrainer, rewards_per_func: Float[Tensor, "global_B F"]) -> Float[Tensor, " global_B"]:
    """TRL's weighted sum of the reward functions; NaN where none of them applied."""
    outcome = (rewards_per_func * trainer.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
    return outcome.masked_fill(torch.isnan(rewards_per_func).all(dim=1), math.nan)


def outcome_of(
    trainer: A2TGPOTrainer, rewards_per_func: Float[Tensor, "global_B F"], completion_mask: Int[Tensor, "B L"]
) -> Float[Tensor, " global_B"]:
    """The weighted rewards, with the penalty for length where the method has one."""
    outcome = weighted(trainer, rewards_per_func)
    if trainer.method.overlong is None:
        return outcome
    limit = trainer.max_completion_length
    lengths = trainer.accelerator.gather(completion_mask.sum(dim=1))
    buffer = max(1, int(trainer.method.overlong * limit))
    return outcome + overlong_penalty(lengths, max_length=limit, buffer=buffer)
