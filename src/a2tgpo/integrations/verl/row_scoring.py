"""Score answers as rows of their own, one per turn boundary and alias, for engines that only give log-probabilities.

row    prefix through the observation, scaffold, answer     ── engine ──     log-probability of each token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.pipeline import RolloutBatch
from a2tgpo.signals.answer_likelihood import AnswerScorer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class AnswerRow:
    """Hold one row: `ids` are a prefix and the answer suffix behind it, of which `is_answer` marks the answer."""

    rollout: int
    boundary: int
    ids: Int[Tensor, " n"]
    is_answer: Bool[Tensor, " n"]


def answer_rows(batch: RolloutBatch, scorer: AnswerScorer) -> list[AnswerRow]:
    """Return a row for each scored alias after each turn boundary of each rollout.

    Raises:
        ValueError: see `AnswerScorer.suffixes`.
    """
    ids, mask = batch.ids.cpu(), batch.mask.bool().cpu()
    rows = []
    for rollout, aliases in enumerate(scorer.suffixes([task.answers for task in batch.tasks])):
        for boundary in batch.boundaries.exists[rollout].nonzero().flatten().tolist():
            end = batch.boundaries.columns[rollout, boundary]
            prefix = ids[rollout, :end][mask[rollout, :end]]
            for suffix in aliases:
                is_answer = torch.zeros(len(prefix) + len(suffix.ids), dtype=torch.bool)
                is_answer[len(prefix) :] = torch.tensor(suffix.is_answer)
                tokens = torch.cat([prefix, torch.tensor(suffix.ids)])
                rows.append(AnswerRow(rollout, boundary, tokens, is_answer))
    return rows


def rows_likelihood(
    rows: Sequence[AnswerRow], logps: Sequence[Float[Tensor, " n"]], batch: RolloutBatch, scorer: AnswerScorer
) -> Float[Tensor, "B T+1"]:
    """Return the likelihood at each boundary: of the likeliest alias, as `scorer` reads it.

    Args:
        logps: for each row, column i the log-probability of token i + 1.
    """
    found = torch.full(batch.boundaries.exists.shape, -torch.inf)
    for row, values in zip(rows, logps, strict=True):
        mean = values[:-1][row.is_answer[1:].to(values.device)].float().mean().cpu()
        found[row.rollout, row.boundary] = torch.maximum(found[row.rollout, row.boundary], mean)
    return scorer.likelihood_of(found, batch.boundaries)
