"""A penalty for leaving the reference policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes
from a2tgpo.core.ratio import log_ratio

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def kl_penalty(
    logp: Float[Tensor, "B L"],
    ref_logp: Float[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    old_logp: Float[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L"]:
    """exp(r) − r − 1 with r = log π_ref/π: Schulman's k3 estimate of KL(π ‖ π_ref), token by token.

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
    """exp(r) − 1 − r, accurate where r is small."""
    return torch.expm1(log_ratio) - log_ratio
