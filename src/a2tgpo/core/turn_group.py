"""Compare gains within turn groups, accumulate them, and add the outcome (A²TGPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_shapes, check_weight, full_precision
from a2tgpo.core.clip import clip_scale
from a2tgpo.core.gain import accumulate
from a2tgpo.core.groups import Baseline, Pool, compared_turns, normalize_outcome, normalize_turn_groups
from a2tgpo.core.turn_batch import TurnBatch, TurnCredit, turn_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


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
    std_floor: float = 1e-6,
    counted: Bool[Tensor, "B T"] | None = None,
    valid: Bool[Tensor, " B"] | None = None,
    normalized_outcome: Float[Tensor, " B"] | None = None,
) -> TurnCredit:
    """Give Â_t = α·D_t/√n_t + R̂ on process turns and R̂ on a rollout's other turns (A²TGPO, arXiv 2605.06200).

    With `baseline="absorbing"` a rollout has a gain of 0 at every depth past its last counted gain, with "active" at
    the first: D also sums these, normalised, and the turns that stopped have process credit.

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
        std_floor: what is added to the standard deviation of a turn group; the paper's 1e-6 does no more than
            avoid a division by 0, 0.05 keeps gains that hardly differ from becoming advantages of ±1.
        counted: process turns that have a gain at all, by default all of them. A turn left out has none: it keeps
            clip scale 1, enters no sum, and no turn group but as a 0 of the baseline above. It still receives the
            credit of the turns after it.
        valid: rollouts to learn from. The others (a tool failed under them) enter no statistics, get
            advantage 0 and clip scale 1, and may hold NaN.
        normalized_outcome: R̂ of each rollout, in place of `outcome` normalised in the prompt's group.

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
    check_weight("alpha", alpha)
    check_range("std_floor", std_floor, 1e-12, float("inf"))
    is_turn = turn_mask(n_turns, is_process)
    is_process = is_process & valid[:, None]
    counted = counted & is_process
    normalized = normalize_turn_groups(
        gain, counted, group, pool=pool, baseline=baseline, eps=std_floor, valid=valid, is_turn=is_turn
    )
    # Under "absorbing" and "active" the turn that stopped is credited too: with minus what it passed up.
    compared = compared_turns(counted, group, valid, baseline, is_turn)
    process = accumulate(normalized, is_process | compared, gamma=gamma, rescale=rescale, counted=compared)
    reward = normalize_outcome(outcome, group, valid=valid)
    if normalized_outcome is not None:
        check_shapes(outcome=(outcome, "float B"), normalized_outcome=(normalized_outcome, "float B"))
        reward = torch.where(valid, full_precision(normalized_outcome), 0)
    return TurnCredit(
        advantage=torch.where(is_turn, alpha * process + reward[:, None], 0),
        clip_scale=clip_scale(normalized, counted, beta=beta),
        normalized_gain=torch.where(counted, normalized, 0),
    )


@dataclass(frozen=True)
class TurnGroupCredit:
    """Apply `turn_credit`: A²TGPO with the defaults, its ablations with other parameters (arXiv 2605.06200)."""

    pool: Pool = "turn"
    baseline: Baseline = "survivors"
    rescale: bool = True
    gamma: float = 1.0
    alpha: float = 1.0
    beta: float = 0.3
    std_floor: float = 1e-6
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})
    adds_outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, get_args(Pool))
        check_choice("baseline", self.baseline, get_args(Baseline))
        check_range("gamma", self.gamma, 0.0, 1.0)
        check_weight("alpha", self.alpha)
        check_range("beta", self.beta, 0.0, 1.0)
        check_range("std_floor", self.std_floor, 1e-12, float("inf"))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`; see `turn_credit`."""
        return turn_credit(
            batch.gain,
            batch.is_process,
            batch.outcome,
            batch.group,
            n_turns=batch.n_turns,
            counted=batch.counted,
            valid=batch.valid,
            normalized_outcome=batch.normalized_outcome,
            **vars(self),
        )
