"""Give A²TGPO's credit as its authors' released code computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_range, check_values, check_weight, full_precision
from a2tgpo.core.clip import clip_scale
from a2tgpo.core.gain import accumulate
from a2tgpo.core.groups import check_groups, normalize_outcome, standard_scores, turn_cells
from a2tgpo.core.turn_batch import TurnBatch, TurnCredit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

VARIANCE_EPS, STD_EPS = 1e-8, 1e-6
"""The release's standard deviation is √(variance of the population + 1e-8) + 1e-6, of gains and of outcomes."""


@dataclass(frozen=True)
class ReleaseCredit:
    """Give Â_t = α·D_k/√n_k + R̂, where k is the turn's first gain (the released code of A²TGPO, arXiv 2605.06200).

    The release keeps gains in a row of zeros and finds them by not being 0, so that a gain of exactly 0 is none:

    - the m gains of a rollout that are not 0 are numbered 1..m, and turn group k holds the k-th gain of each rollout;
    - a turn whose gain is 0 takes advantage and clip scale of the next gain, k, in its rollout;
    - turns behind the last gain have R̂ and clip scale 1, as the answer turn has.

    D_k = Σ_{j≥k} γ^{j−k} ĝ_j has n_k = m − k + 1 terms.

    Attributes:
        alpha: weight of the process credit beside the outcome; their script has 0.3, the paper 1.
        gamma: discount per gain of distance, in [0, 1].
        beta: how far the clip scale may go from 1.
        first_gain: read the gain of turn 1. The release never measures it, which makes it a gain of 0.

    Example, for one prompt with equal rewards, α = 1 and all gains read:

        gains [[0, .3], [.1, .5], [.2, .4]] -> group 1 is {.3, .1, .2}, group 2 {.5, .4};
        rollout 1 has (.3 − .2)/.0816 = 1.22 on both turns, and on both the clip scale 1.16.
    """

    alpha: float = 0.3
    gamma: float = 1.0
    beta: float = 0.3
    first_gain: bool = False
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})

    def __post_init__(self) -> None:
        check_weight("alpha", self.alpha)
        check_range("gamma", self.gamma, 0.0, 1.0)
        check_range("beta", self.beta, 0.0, 1.0)

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`.

        Raises:
            ValueError: a gain or outcome that is not finite, a group outside 0..B−1.
        """
        gain, found, first = self._numbered(batch)
        group, valid = batch.group, batch.is_valid
        cells = turn_cells(group, gain.shape[1])
        scores = standard_scores(gain, found, cells, gain.numel(), STD_EPS, variance_eps=VARIANCE_EPS)
        process = self.alpha * accumulate(scores, found, gamma=self.gamma)
        outcome = torch.where(valid, full_precision(batch.outcome), 0)
        reward = standard_scores(outcome, valid, group, len(group), STD_EPS, variance_eps=VARIANCE_EPS)

        def on_turns(per_gain: Float[Tensor, "B T"], otherwise: float) -> Float[Tensor, "B T"]:
            taken = torch.nn.functional.pad(per_gain, (0, 1), value=otherwise).gather(1, first)
            return torch.where(batch.learned, taken, otherwise)

        return TurnCredit(
            advantage=torch.where(batch.learned, on_turns(process, 0.0) + reward[:, None], 0),
            clip_scale=on_turns(clip_scale(scores, found, beta=self.beta), 1.0),
            normalized_gain=on_turns(scores, 0.0),
        )

    def _numbered(self, batch: TurnBatch) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Move the gains of each rollout that are not 0 to its first columns.

        Returns:
            The gains by number, the columns that hold one, and for each turn the column of its gain or, without one,
            of the next; T where none follows.
        """
        normalize_outcome(batch.outcome, batch.group, valid=batch.valid)  # checks outcomes and groups
        check_groups(batch.group)
        gain, has_gain = full_precision(batch.gain), batch.has_gain
        check_values(
            "gain",
            gain,
            gain.isfinite() | ~has_gain,
            "a process turn needs a finite gain; score the turn, unset is_process, or mark the rollout not valid",
        )
        n_turns = gain.shape[1]
        turn = torch.arange(n_turns, device=gain.device)
        is_gain = has_gain & (gain != 0) & ((turn > 0) | self.first_gain)
        upto = is_gain.long().cumsum(dim=1)
        before, count = upto - is_gain.long(), upto[:, -1:]
        column = torch.where(is_gain, before, n_turns)
        by_number = gain.new_zeros(len(gain), n_turns + 1).scatter(1, column, torch.where(is_gain, gain, 0))
        return by_number[:, :-1], turn < count, torch.where(before < count, before, n_turns)
