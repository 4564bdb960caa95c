"""Clip: bound how far a turn may move from the old policy, and say what happens to its gradient beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Upper = Literal["clip", "keep_gradient"]


def clip_scale(
    normalized: Float[Tensor, "B T"], is_process: Bool[Tensor, "B T"], *, beta: float = 0.3
) -> Float[Tensor, "B T"]:
    """Return c = 1 + β(2σ(ĝ) − 1) on process turns, 1 elsewhere (A²TGPO, arXiv 2605.06200).

    Args:
        normalized: ĝ, the normalised gains.
        is_process: turns that have a gain.
        beta: how far the scale may go; 0 turns adaptive clipping off.

    Returns:
        The factor of a turn's clip range, in (1 − β, 1 + β).

    Raises:
        ValueError: mismatched shapes, or a beta outside [0, 1].
    """
    check_range("beta", beta, 0.0, 1.0)
    check_shapes(normalized=(normalized, "float B T"), is_process=(is_process, "bool B T"))
    # 2σ(x) − 1 = tanh(x/2), which keeps its digits around 0.
    scale = 1 + beta * torch.tanh(full_precision(normalized) / 2)
    return torch.where(is_process, scale, 1)


def clipped_objective(
    log_ratio: Float[Tensor, "B S"],
    advantage: Float[Tensor, "B S"],
    low: Float[Tensor, "B S"],
    high: Float[Tensor, "B S"],
    upper: Upper,
    dual_clip: float | None,
) -> Float[Tensor, "B S"]:
    """Return min(s·Â, clip(s, low, high)·Â) with s = exp(log_ratio), and at least dual_clip·Â where Â < 0.

    With `upper="keep_gradient"` a ratio above `high` still counts as `high`, but as high·s/sg(s), sg stopping
    the gradient: the gradient is high·Â·∇log s, bounded and not 0. This is AEPO's clipping (arXiv 2510.14545).

    For a positive factor k the objective of k·Â is k times that of Â: advantages of one sign may be summed first.
    """
    s = log_ratio.exp()
    bounded = s.clamp(low, high)
    if upper == "keep_gradient":
        one = (log_ratio - log_ratio.detach()).exp()
        bounded = torch.where(s > high, high * one, bounded)
    objective = torch.minimum(s * advantage, bounded * advantage)
    if dual_clip is None:
        return objective
    return torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)


def held_back(
    log_ratio: Float[Tensor, "B S"],
    advantages: Sequence[Float[Tensor, "B S"]],
    low: Float[Tensor, "B S"],
    high: Float[Tensor, "B S"],
    dual_clip: float | None,
) -> tuple[Bool[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Mark where an upper bound, and where the lower one, holds the gradient of one of the `advantages` back."""
    s = log_ratio.exp()
    up = torch.stack([advantage > 0 for advantage in advantages]).any(dim=0)
    down = torch.stack([advantage < 0 for advantage in advantages]).any(dim=0)
    above = (s > high) & up
    if dual_clip is not None:
        above = above | ((s > dual_clip) & down)
    return above, (s < low) & down
