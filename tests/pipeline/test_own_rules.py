"""A credit rule of a user's that is wrong is told so, by the name of what is wrong with its credit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from a2tgpo.core import TurnBatch, TurnCredit
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import BatchCredit, RolloutBatch, SingleProcess, TaskRow, assign_credit, collect_signals


@dataclasses.dataclass(frozen=True)
class Rule:
    """Give every turn what `advantage` makes of the batch."""

    advantage: Callable[[TurnBatch], Tensor]
    reads: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        ones = torch.ones_like(batch.gain)
        return TurnCredit(self.advantage(batch), ones, 0 * ones)


def assigned(rule: Rule) -> BatchCredit:
    """Three rollouts of one prompt: a search and an answer, an answer, and one that its tool failed."""
    batch = RolloutBatch.of(
        prompt_ids=torch.full((3, 1), 3),
        prompt_mask=torch.ones(3, 1, dtype=torch.long),
        completion_ids=torch.full((3, 3), 7),
        completion_mask=torch.ones(3, 3, dtype=torch.long),
        model_mask=torch.tensor([[True, False, True], [True, True, True], [True, False, False]]),
        group_size=3,
        tasks=[TaskRow("q", "Who?", ["bora"])] * 3,
        failed=[False, False, True],
    )
    method = dataclasses.replace(METHODS["grpo"], name="mine", credit=rule)
    signals = collect_signals(batch, method, build_tokenizer())
    return assign_credit(batch, signals, torch.tensor([1.0, 0.0, 0.0]), method, SingleProcess())


def test_what_is_not_learned_from_may_be_anything() -> None:
    """A rule may divide 0 by 0 on padding and on rollouts that are not valid."""
    credit = assigned(Rule(lambda batch: torch.where(batch.learned, 1.0, torch.nan)))
    assert credit.advantage[:2].tolist() == [[1.0, 1.0], [1.0, pytest.approx(torch.nan, nan_ok=True)]]


@pytest.mark.parametrize(
    ("advantage", "message"),
    [
        (lambda batch: batch.gain / batch.gain, r"advantage\[0, 0\] is nan; a credit rule gives every turn a finite"),
        (lambda batch: 1 / batch.gain, r"advantage\[0, 0\] is inf; a credit rule gives every turn a finite number"),
        (lambda batch: batch.outcome, r"advantage has shape \(3,\); pass a tensor of shape \[B, T\]"),
        (lambda batch: batch.gain[:, :1], r"advantage has shape \(3, 1\)"),
    ],
)
def test_credit_that_is_none(advantage: Callable[[TurnBatch], Tensor], message: str) -> None:
    """Before the loss, which would be NaN, or fail over an index."""
    with pytest.raises(ValueError, match=message):
        assigned(Rule(advantage))
