"""Importance ratios: how much likelier the policy finds what the old policy wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, full_precision
from a2tgpo.core.turns import check_turn_ids, to_tokens, turn_sum

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Level = Literal["turn", "token", "sequence"]


def turn_ratio(
    logp: Float[Tensor, "B L"], old_logp: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """s_t = exp(mean over the tokens of turn t of log π/π_old), on each of them (A²TGPO, arXiv 2605.06200).

    The gradient is the true one: every token of a turn moves the ratio of all of them.

    Args:
        logp: log-probabilities under the policy; anything, NaN included, off model tokens.
        old_logp: the same under the policy that wrote the tokens; a constant.
        turn_ids: the turn of each token, -1 off model tokens.

    Returns:
        Ratios in (0, ∞); exactly 1, without gradient, off model tokens.

    Raises:
        ValueError: mismatched shapes, or an empty turn below a rollout's last one.
    """
    check_shapes(logp=(logp, "float B L"), old_logp=(old_logp, "float B L"), turn_ids=(turn_ids, "long B L"))
    check_turn_ids(turn_ids)
    return pooled(log_ratio(logp, old_logp, turn_ids), turn_ids, "turn").exp()


def log_ratio(
    logp: Float[Tensor, "B L"], old_logp: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """log π/π_old on model tokens, 0 elsewhere."""
    # Masked before the subtraction: a NaN multiplied by 0 afterwards would still poison the gradient.
    is_model = turn_ids >= 0
    new = torch.where(is_model, full_precision(logp), 0)
    return new - torch.where(is_model, full_precision(old_logp).detach(), 0)


def pooled(log_ratio: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], level: Level) -> Float[Tensor, "B L"]:
    """The mean log-ratio of each token's turn, of its whole rollout, or of the token alone."""
    if level == "token":
        return log_ratio
    segment = turn_ids if level == "turn" else turn_ids.clamp(max=0)
    n_segments = turn_ids.shape[1] if level == "turn" else 1
    n_tokens = turn_sum(torch.ones_like(log_ratio), segment, n_segments)
    return to_tokens(turn_sum(log_ratio, segment, n_segments) / n_tokens.clamp(min=1), segment)
