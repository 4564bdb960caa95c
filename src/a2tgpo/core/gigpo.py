"""Compare the episode with its prompt, and each step with steps taken from the same anchor state (GiGPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_values, check_weight, full_precision
from a2tgpo.core.groups import Std, centred, dense_cells, normalize_outcome, standard_scores
from a2tgpo.core.turn_batch import TurnBatch, TurnCredit, plain_credit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Norm = Literal["mean", "std"]


@dataclass(frozen=True)
class GigpoCredit:
    """Give Â_t = A^E + ω·A^S_t (GiGPO, arXiv 2505.10978).

    A^E compares the outcome with the prompt's outcomes. A^S compares the discounted return γ^{T−1−t}·R of turn t
    with the returns of all turns of the prompt that started from the same anchor state; a state met once gives 0. A^E
    counts every outcome once.

    Attributes:
        weight: ω.
        gamma: discount of the outcome per turn of distance, in [0, 1].
        norm: "mean" subtracts the mean, "std" also divides by the standard deviation + 1e-6. The published names are
            mean_norm and mean_std_norm; their runs with search have the second.
        std: of the "population" or of a "sample" (the published code), see `normalize_outcome`.
    """

    weight: float = 1.0
    gamma: float = 0.95
    norm: Norm = "mean"
    std: Std = "population"
    reads: ClassVar[frozenset[str]] = frozenset({"state"})

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_range("gamma", self.gamma, 0.0, 1.0)
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("std", self.std, get_args(Std))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`.

        Raises:
            ValueError: a batch without states, or a state outside −1..B·T−1.
        """
        state, learned = batch.required("state"), batch.learned
        last = state.numel() - 1
        check_values(
            "state",
            state,
            (state >= -1) & (state <= last),
            f"number the states of a prompt from 0 to {last}; -1 is none",
        )
        # Checks the outcomes too.
        episode = normalize_outcome(batch.outcome, batch.group, valid=batch.valid, std=self.std)
        outcome = torch.where(batch.is_valid, full_precision(batch.outcome), 0)
        if self.norm == "mean":
            episode = centred(outcome, batch.is_valid, batch.group, len(outcome))
        turn = torch.arange(state.shape[1], device=state.device)
        distance = (batch.n_turns[:, None] - 1 - turn).clamp(min=0).to(outcome.dtype)
        returns = outcome[:, None] * self.gamma**distance
        cell = dense_cells(batch.group[:, None] * (last + 2) + state + 1)
        step = self._compared(returns, learned & (state >= 0), cell)
        return plain_credit(episode[:, None] + self.weight * step, learned)

    def _compared(
        self, value: Float[Tensor, "B T"], sample: Bool[Tensor, "B T"], cell: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        if self.norm == "mean":
            return centred(value, sample, cell, value.numel())
        return standard_scores(value, sample, cell, value.numel(), 1e-6, self.std)
