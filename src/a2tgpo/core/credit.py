"""Turn credit: from gains and outcomes to one advantage and one clip scale per turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes, check_values, full_precision
from a2tgpo.core.clip import clip_scale
from a2tgpo.core.groups import Baseline, Pool, normalize_outcome, normalize_turn_groups

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class TurnCredit(NamedTuple):
    """What each turn is worth and how far it may move the policy."""

    advantage: Float[Tensor, "B T"]
    clip_scale: Float[Tensor, "B T"]
    normalized_gain: Float[Tensor, "B T"]


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


def turn_credit(
    gain: Float[Tensor, "B T"],
    is_process: Bool[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    group: Int[Tensor, " B"],
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.3,
    n_turns: Int[Tensor, " B"],
    pool: Pool = "turn",
    baseline: Baseline = "survivors",
    rescale: bool = True,
    counted: Bool[Tensor, "B T"] | None = None,
    valid: Bool[Tensor, " B"] | None = None,
) -> TurnCredit:
    """Â_t = α·D_t/√n_t + R̂ on process turns and R̂ on a rollout's other turns (A²TGPO, arXiv 2605.06200).

    Args:
        gain: information gains; values off process turns are ignored.
        is_process: turns that an observation follows.
        outcome: the reward of each rollout.
        group: the prompt of each rollout, an index in 0..B−1.
        gamma: discount per turn of the process credit.
        alpha: weight of the process credit beside the outcome.
        beta: how far the clip scale may go from 1.
        n_turns: the number of turns of each rollout; later columns are padding.
        pool, baseline: the turn groups, see `normalize_turn_groups`.
        rescale: divide the process credit by √n.
        counted: process turns that have a gain at all, by default all of them. A turn left out enters no
            turn group and no sum and keeps clip scale 1, but still receives the credit of the turns after it.
            The authors' release leaves out the first turn and every gain of exactly 0.
        valid: rollouts to learn from. The others (a tool failed under them) enter no statistics, get
            advantage 0 and clip scale 1, and may hold NaN.

    Returns:
        Advantages (0 on padding), clip scales (1 off process turns) and normalised gains.

    Raises:
        ValueError: mismatched shapes, a gain or outcome that is not finite, a group outside 0..B−1, a
            process turn past the rollout's last turn, an option outside its range.
    """
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    counted = is_process if counted is None else counted
    check_shapes(
        gain=(gain, "float B T"),
        is_process=(is_process, "bool B T"),
        outcome=(outcome, "float B"),
        group=(group, "long B"),
        n_turns=(n_turns, "long B"),
        counted=(counted, "bool B T"),
        valid=(valid, "bool B"),
    )
    width = gain.shape[1]
    check_values(
        "n_turns",
        n_turns,
        (n_turns >= 0) & (n_turns <= width),
        f"gain has {width} turn columns, so count between 0 and {width} turns",
    )
    is_turn = torch.arange(width, device=gain.device) < n_turns[:, None]
    check_values(
        "is_process",
        is_process,
        is_turn | ~is_process,
        "the rollout has fewer turns in n_turns; unset it on padding or correct n_turns",
    )

    is_process = is_process & valid[:, None]
    counted = counted & is_process
    normalized = normalize_turn_groups(gain, counted, group, pool=pool, baseline=baseline, valid=valid)
    process = accumulate(normalized, is_process, gamma=gamma, rescale=rescale, counted=counted)
    reward = normalize_outcome(outcome, group, valid=valid)
    return TurnCredit(
        advantage=torch.where(is_turn, alpha * process + reward[:, None], 0),
        clip_scale=clip_scale(normalized, counted, beta=beta),
        normalized_gain=normalized,
    )
