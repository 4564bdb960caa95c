"""Measure what each observation gained, and sum a turn's gain with those of the turns after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes, check_values, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Likelihood = Literal["probability", "log_probability"]
"""Meanings of a likelihood: exp(mean log-probability of the answer's tokens), or that mean itself."""


def information_gain(likelihood: Float[Tensor, "B T+1"], is_process: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return ig_t = v_t − v_{t−1} on process turns, 0 elsewhere, without gradient (A²TGPO, arXiv 2605.06200).

    Args:
        likelihood: v, the likelihood of the gold answer at each boundary. Column 0 is given the query alone,
            column t+1 given everything through the observation of turn t. Probabilities give a gain in
            [−1, 1]; mean log-probabilities give the unbounded gain of the authors' release.
        is_process: turns that an observation follows. Only the boundaries on either side of one are read.

    Raises:
        ValueError: mismatched shapes, or a likelihood that a gain needs and that is not finite.
    """
    check_shapes(is_process=(is_process, "bool B T"), likelihood=(likelihood, "float B T+1"))
    value = full_precision(likelihood).detach()
    needed = torch.nn.functional.pad(is_process, (1, 0)) | torch.nn.functional.pad(is_process, (0, 1))
    check_values(
        "likelihood",
        value,
        value.isfinite() | ~needed,
        "a process turn needs a finite likelihood on both of its boundaries; score them or unset is_process",
    )
    return torch.where(is_process, value[:, 1:] - value[:, :-1], 0)


def accumulate(
    normalized: Float[Tensor, "B T"],
    is_process: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    rescale: bool = True,
    counted: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Return D_t / √n_t, where D_t = Σ_{k≥t} γ^{k−t} ĝ_k has n_t terms (A²TGPO, arXiv 2605.06200).

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
