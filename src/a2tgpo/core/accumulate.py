"""Accumulation: a turn is worth what it gained and what the turns after it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def accumulate(
    normalized: Float[Tensor, "B T"],
    is_process: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    rescale: bool = True,
    counted: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """D_t / √n_t, where D_t = Σ_{k≥t} γ^{k−t} ĝ_k has n_t terms (A²TGPO, arXiv 2605.06200).

    The √n keeps an early turn, whose sum has more terms, on the scale of a late one.

    Args:
        normalized: ĝ, the normalised gains.
        is_process: turns that receive credit.
        gamma: discount per turn of distance, in [0, 1].
        rescale: divide by √n; without it D_t itself is returned.
        counted: process turns that are a term of the sum, by default all of them.

    Returns:
        Process credit; 0 off process turns and where no term is left.

    Raises:
        ValueError: mismatched shapes, or a gamma outside [0, 1].
    """
    check_range("gamma", gamma, 0.0, 1.0)
    counted = is_process if counted is None else counted
    check_shapes(
        normalized=(normalized, "float B T"),
        is_process=(is_process, "bool B T"),
        counted=(counted, "bool B T"),
    )
    counted = counted & is_process
    term = torch.where(counted, full_precision(normalized), 0)
    turn = torch.arange(term.shape[1], device=term.device, dtype=term.dtype)
    distance = turn[None, :] - turn[:, None]
    discount = torch.where(distance >= 0, gamma ** distance.clamp(min=0), 0)
    # Not a matrix product: autocast would run that in bfloat16.
    credit = (term[:, None, :] * discount).sum(dim=-1)
    if rescale:
        n_terms = counted.to(term.dtype).flip(1).cumsum(1).flip(1)
        credit = credit / n_terms.clamp(min=1).sqrt()
    return torch.where(is_process, credit, 0)
