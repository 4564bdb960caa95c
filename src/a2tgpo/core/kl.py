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
    logp: Float[Tensor, "B L"], ref_logp: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """exp(r) − r − 1 with r = log π_ref/π: Schulman's k3 estimate of KL(π ‖ π_ref), token by token.

    Args:
        logp: log-probabilities under the policy; anything, NaN included, off model tokens.
        ref_logp: the same under the reference policy; a constant.
        turn_ids: the turn of each token, -1 off model tokens.

    Returns:
        Nats, never negative; 0 off model tokens.

    Raises:
        ValueError: mismatched shapes.
    """
    check_shapes(logp=(logp, "float B L"), ref_logp=(ref_logp, "float B L"), turn_ids=(turn_ids, "long B L"))
    return k3(-log_ratio(logp, ref_logp, turn_ids))


def k3(log_ratio: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """exp(r) − 1 − r, accurate where r is small."""
    return torch.expm1(log_ratio) - log_ratio
