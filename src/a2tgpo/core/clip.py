"""Adaptive clipping: informative turns may move further from the old policy, misleading ones less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def clip_scale(
    normalized: Float[Tensor, "B T"], is_process: Bool[Tensor, "B T"], *, beta: float = 0.3
) -> Float[Tensor, "B T"]:
    """c = 1 + β(2σ(ĝ) − 1) on process turns, 1 elsewhere (A²TGPO, arXiv 2605.06200).

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
