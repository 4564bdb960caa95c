"""The clipped policy loss over turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_shapes, check_values, full_precision
from a2tgpo.core.kl import k3
from a2tgpo.core.ratio import Level, log_ratio, pooled
from a2tgpo.core.turns import check_turn_ids, to_tokens, turn_sum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Aggregate = Literal["rollout", "token"]


class PolicyLoss(NamedTuple):
    """The loss, and what happened in it: detached, on the device, over model tokens (0 if there are none).

    A token is clipped where the clip bound holds its gradient back: its ratio is above the upper bound with a
    positive advantage, or below the lower bound with a negative one.
    """

    loss: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    """Share of model tokens clipped at the lower bound."""
    clipped_high: Float[Tensor, ""]
    """Share of model tokens clipped at the upper bound."""
    clipped_turns: Bool[Tensor, "B T"]
    """Turns with a clipped token."""
    ratio_mean: Float[Tensor, ""]
    ratio_min: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    """KL(π_old ‖ π) per token in nats, by Schulman's k3 estimate."""


def policy_loss(
    logp: Float[Tensor, "B L"],
    old_logp: Float[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    advantage: Float[Tensor, "B T"],
    clip_scale: Float[Tensor, "B T"],
    *,
    ratio: Level = "turn",
    eps_low: float = 3e-3,
    eps_high: float = 4e-3,
    aggregate: Aggregate = "rollout",
) -> PolicyLoss:
    """−mean over rollouts of Σ min(s·Â, clip(s, 1 − c·ε_low, 1 + c·ε_high)·Â) / |tokens| (A²TGPO, arXiv 2605.06200).

    Args:
        logp: log-probabilities under the policy; anything, NaN included, off model tokens.
        old_logp: the same under the policy that wrote the tokens.
        turn_ids: the turn of each token, -1 off model tokens.
        advantage: Â of each turn.
        clip_scale: c of each turn.
        ratio: s is the ratio of the token's turn, of the token, or of the whole sequence of model tokens.
        eps_low: clip range below 1, before scaling.
        eps_high: clip range above 1, before scaling.
        aggregate: "rollout" gives every rollout the same weight, "token" every token. A rollout without
            model tokens contributes 0 and counts as a rollout, so that the mean over equal micro-batches is
            the mean over the batch.

    Returns:
        The loss with gradient towards `logp` alone, and diagnostics.

    Raises:
        ValueError: mismatched shapes, an empty turn, a turn without an advantage, a bad option.
    """
    check_choice("ratio", ratio, get_args(Level))
    check_choice("aggregate", aggregate, get_args(Aggregate))
    check_range("eps_low", eps_low, 0.0, 1.0)
    check_range("eps_high", eps_high, 0.0, float("inf"))
    check_shapes(
        logp=(logp, "float B L"),
        old_logp=(old_logp, "float B L"),
        turn_ids=(turn_ids, "long B L"),
        advantage=(advantage, "float B T"),
        clip_scale=(clip_scale, "float B T"),
    )
    check_turn_ids(turn_ids)
    width = advantage.shape[1]
    check_values(
        "turn_ids",
        turn_ids,
        turn_ids < width,
        f"advantage has {width} turn columns; give it one for every turn",
    )

    change = log_ratio(logp, old_logp, turn_ids)
    s = pooled(change, turn_ids, ratio).exp()
    token_advantage = to_tokens(full_precision(advantage).detach(), turn_ids)
    token_scale = to_tokens(full_precision(clip_scale).detach(), turn_ids)
    low, high = 1 - token_scale * eps_low, 1 + token_scale * eps_high
    objective = torch.minimum(s * token_advantage, s.clamp(low, high) * token_advantage)
    is_model = turn_ids >= 0
    loss = -rollout_mean(objective, turn_ids) if aggregate == "rollout" else -_mean(objective, is_model)

    with torch.no_grad():
        above = (s > high) & (token_advantage > 0)
        below = (s < low) & (token_advantage < 0)
        ratio_mean = _mean(s, is_model)
        # The mean lies between the extremes, so it can stand in for the tokens that do not count.
        counted = torch.where(is_model, s, ratio_mean)
        return PolicyLoss(
            loss=loss,
            clipped_low=_mean(below, is_model),
            clipped_high=_mean(above, is_model),
            clipped_turns=turn_sum((above | below).long(), turn_ids, width) > 0,
            ratio_mean=ratio_mean,
            ratio_min=counted.amin(),
            ratio_max=counted.amax(),
            approx_kl=_mean(k3(change), is_model),
        )


def rollout_mean(per_token: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Mean over rollouts of the mean over each one's model tokens; a rollout without any contributes 0."""
    is_model = turn_ids >= 0
    kept = torch.where(is_model, per_token, 0)
    return (kept.sum(dim=1) / is_model.sum(dim=1).clamp(min=1)).mean()


def _mean(value: Tensor, is_model: Bool[Tensor, "B L"]) -> Float[Tensor, ""]:
    return torch.where(is_model, value, 0).sum() / is_model.sum().clamp(min=1)
