"""Compare the policy with the one that wrote the tokens (ratios) and with the reference policy (a KL penalty)."""

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
    """Return s_t = exp(mean over the tokens of turn t of log π/π_old), on each of them (A²TGPO, arXiv 2605.06200).

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
    per_turn, _ = segments(log_ratio(logp, old_logp, turn_ids), turn_ids, turn_ids.shape[1], "turn")
    return to_tokens(per_turn, turn_ids).exp()


def log_ratio(
    logp: Float[Tensor, "B L"], old_logp: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Return log π/π_old on model tokens, 0 elsewhere."""
    # Masked before the subtraction: a NaN multiplied by 0 afterwards would still poison the gradient.
    is_model = turn_ids >= 0
    new = torch.where(is_model, full_precision(logp), 0)
    return new - torch.where(is_model, full_precision(old_logp).detach(), 0)


def segments(
    log_ratio: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], n_turns: int, level: Level
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Return the log-ratio of each segment, and how many tokens it has.

    A segment is what shares one ratio and one advantage: a token at level "token", else a turn. At level
    "sequence" all turns of a rollout have the mean log-ratio of all its tokens.
    """
    if level == "token":
        return log_ratio, (turn_ids >= 0).to(log_ratio.dtype)
    total = turn_sum(log_ratio, turn_ids, n_turns)
    n_tokens = turn_sum(torch.ones_like(log_ratio), turn_ids, n_turns)
    if level == "turn":
        return total / n_tokens.clamp(min=1), n_tokens
    mean = total.sum(dim=1, keepdim=True) / n_tokens.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.expand_as(total), n_tokens


def kl_penalty(
    logp: Float[Tensor, "B L"],
    ref_logp: Float[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    old_logp: Float[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L"]:
    """Return exp(r) − r − 1 with r = log π_ref/π: Schulman's k3 estimate of KL(π ‖ π_ref), token by token.

    With `old_logp` each token is weighted by its ratio π/π_old, which makes the gradient that of the reverse KL
    (DeepSeek-V3.2, arXiv 2512.02556).

    Args:
        logp: log-probabilities under the policy; anything, NaN included, off model tokens.
        ref_logp: the same under the reference policy; a constant.
        turn_ids: the turn of each token, -1 off model tokens.
        old_logp: the same under the policy that wrote the tokens; a constant.

    Returns:
        Nats, never negative; 0 off model tokens.

    Raises:
        ValueError: mismatched shapes.
    """
    check_shapes(logp=(logp, "float B L"), ref_logp=(ref_logp, "float B L"), turn_ids=(turn_ids, "long B L"))
    penalty = k3(-log_ratio(logp, ref_logp, turn_ids))
    if old_logp is None:
        return penalty
    check_shapes(logp=(logp, "float B L"), old_logp=(old_logp, "float B L"))
    return penalty * log_ratio(logp, old_logp, turn_ids).exp()


def k3(log_ratio: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Return exp(r) − 1 − r, accurate where r is small."""
    return torch.expm1(log_ratio) - log_ratio
