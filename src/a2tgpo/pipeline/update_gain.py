"""Give a batch its credit forward by forward, from gains that the update's own forwards find on their way.

Where a batch feeds one update, each of whose forwards holds whole groups, nothing that a forward needs is known only
after another: it fills a cache, the answers are read from it, its groups get their credit, and it goes backward. There
is then no pass over the trajectories beside the update. A forward whose rollouts differ in length is made in several,
of like length, whose graphs wait for the credit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core import turn_ids
from a2tgpo.pipeline.batch import RolloutBatch
from a2tgpo.pipeline.credit import BatchCredit
from a2tgpo.pipeline.microbatches import forwards_by_length
from a2tgpo.pipeline.turn_loss import LossInputs
from a2tgpo.pipeline.turn_signals import TurnSignals
from a2tgpo.signals.answer_likelihood.trajectories import ALIGNMENT

if TYPE_CHECKING:
    from jaxtyping import Float

Assign = Callable[["RolloutBatch", TurnSignals, "Float[Tensor, ' b']", "Tensor | None"], BatchCredit]
"""From rollouts of whole groups, their signals, rewards and normalised outcomes to their credit."""


@dataclass(eq=False)
class UpdateGain:
    """Hold a batch whose credit is given while its update runs, in one process.

    Attributes:
        rewards: of each rollout; NaN where none applied.
        normalized_outcome: R̂ of each, where an engine compares outcomes in a way of its own.
        assign: gives whole groups their credit.
        done: what was given so far, from the first rollout on.
    """

    batch: RolloutBatch
    rewards: Float[Tensor, " B"]
    normalized_outcome: Float[Tensor, " B"] | None
    assign: Assign
    done: list[BatchCredit] = field(default_factory=list)

    def provisional(self) -> LossInputs:
        """Return what the loss reads but for the credit: 0 and 1 stand in for advantages and clip scales."""
        valid = ~self.batch.failed & ~self.rewards.isnan()
        ids = turn_ids(self.batch.model_mask & valid[:, None])
        nothing = torch.zeros(ids.shape, device=ids.device)
        n_turns = torch.tensor(self.batch.boundaries.is_process.size(1))
        return LossInputs(ids, nothing, nothing + 1, n_turns, nothing.new_zeros(()))

    def give(self, first: int, part: RolloutBatch, signals: TurnSignals) -> LossInputs:
        """Return what the loss reads of `part`: whole groups, from rollout `first` on, behind those given before."""
        assert first == self._n_given, "forwards take a batch's rollouts in their order"
        rows = slice(first, first + len(part.tasks))
        outcome = None if self.normalized_outcome is None else self.normalized_outcome[rows]
        credit = self.assign(part, signals, self.rewards[rows], outcome)
        self.done.append(credit)
        return LossInputs.of(credit, part.model_mask)

    @property
    def credit(self) -> BatchCredit | None:
        """Return the whole batch's credit, once the last of it is given."""
        return BatchCredit.join(self.done) if self._n_given == len(self.rewards) else None

    @property
    def _n_given(self) -> int:
        return sum(len(one.outcome) for one in self.done)


def is_cheaper(
    lengths: Sequence[int], n_prompt: int, rows_per_forward: int, forwards_per_update: int, price: float
) -> bool:
    """Tell whether an update that keeps groups together and reads gains itself reads fewer columns than one that
    sorts its rollouts by length after a pass over their trajectories.

    A forward and its backward count three times its columns, the pass once; every row has its forward's longest. The
    first cuts what a forward would hold into several of like length (`forwards_by_length`).

    Args:
        lengths: tokens of each completion, in the order of the batch.
        n_prompt: columns of the prompts.
        forwards_per_update: consecutive forwards between which `sort_by_length` exchanges rollouts.
        price: of a forward, in columns.
    """
    rows = [n_prompt + -(-length // ALIGNMENT) * ALIGNMENT for length in lengths]

    def cost(forwards: Iterable[Sequence[int]]) -> float:
        return sum(price + len(one) * max(one) for one in forwards)

    held = _cut(rows, rows_per_forward)
    together = [[one[row] for row in forward] for one in held for forward in forwards_by_length(one, price)]
    updates = [sorted(one, reverse=True) for one in _cut(rows, rows_per_forward * forwards_per_update)]
    by_length = [forward for one in updates for forward in _cut(one, rows_per_forward)]
    return 3 * cost(together) < 3 * cost(by_length) + cost(_cut(sorted(rows), rows_per_forward))


def _cut(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
