"""Tensors of one scoring batch, on the CPU: trajectories and the probes that are read at their boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.micro_batches import Extent, MicroBatch
from a2tgpo.signals.answer_likelihood.scaffold import Probe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer

IGNORED = -100
"""The label of a column whose log-probability is not read, as in Hugging Face models."""

ALIGNMENT = 64
"""Padding is cut in multiples of so many columns, the keys an attention kernel takes at a time: its blocks then
begin where they would in the whole row, which keeps the order of its sums."""


@dataclass(frozen=True)
class Trajectories:
    """Left-padded prompts joined to right-padded completions, S = P + L columns.

    `position_ids` is the number of attended tokens before each column, so that left padding moves nothing; the
    column's own index where padding counts. Past the first `ends[b]` columns of a row nobody reads anything.
    """

    input_ids: Integer[Tensor, "B S"]
    attention_mask: Bool[Tensor, "B S"]
    labels: Integer[Tensor, "B S"]
    position_ids: Integer[Tensor, "B S"]
    ends: Integer[Tensor, " B"]

    @classmethod
    def join(
        cls,
        prompt_ids: Integer[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        completion_ids: Integer[Tensor, "B L"],
        completion_mask: Bool[Tensor, "B L"],
        model_mask: Bool[Tensor, "B L"],
        count_padding: bool = False,
    ) -> Trajectories:
        written = model_mask.bool() & completion_mask.bool()
        attended = torch.cat([prompt_mask.bool(), completion_mask.bool()], dim=1)
        counted = torch.ones_like(attended) if count_padding else attended
        return cls(
            input_ids=torch.cat([prompt_ids, completion_ids], dim=1),
            attention_mask=attended,
            labels=torch.cat(
                [torch.full_like(prompt_ids, IGNORED), completion_ids.masked_fill(~written, IGNORED)], dim=1
            ),
            position_ids=(counted.cumsum(1) - 1).clamp(min=0),
            ends=attended.shape[1] - attended.flip(1).int().argmax(1),
        )

    def for_keys(self, ends: Integer[Tensor, " B"]) -> Trajectories:
        """Read for the keys of their first `ends[b]` columns alone. What lies behind stays attended: a mask of its own
        would cost attention more than the columns do."""
        return replace(self, labels=torch.full_like(self.labels, IGNORED), ends=ends)

    def extents(self, extra: Integer[Tensor, " B"]) -> list[Extent]:
        """The columns of each row, its padding cut in multiples of `ALIGNMENT`, and its `extra` tokens."""
        n_columns = self.attention_mask.shape[1]
        first = self.attention_mask.int().argmax(1) // ALIGNMENT * ALIGNMENT
        unread = (n_columns - self.ends) // ALIGNMENT * ALIGNMENT
        return [Extent(*row) for row in torch.stack([first, n_columns - unread, extra], dim=1).tolist()]

    def take(self, batch: MicroBatch) -> Trajectories:
        rows = list(batch.rows)
        return Trajectories(
            self.input_ids[rows, batch.columns],
            self.attention_mask[rows, batch.columns],
            self.labels[rows, batch.columns],
            self.position_ids[rows, batch.columns],
            self.ends[rows] - batch.columns.start,
        )


@dataclass(frozen=True)
class ProbeBatch:
    """The probes of B rollouts, A aliases each, right-padded to M tokens. A missing alias has no token."""

    ids: Integer[Tensor, "B A M"]
    is_token: Bool[Tensor, "B A M"]
    is_answer: Bool[Tensor, "B A M"]

    @classmethod
    def stack(cls, probes: Sequence[Sequence[Probe]]) -> ProbeBatch:
        n_aliases = max(len(aliases) for aliases in probes)
        length = max(len(probe.ids) for aliases in probes for probe in aliases)
        ids = torch.zeros(len(probes), n_aliases, length, dtype=torch.long)
        is_token = torch.zeros_like(ids, dtype=torch.bool)
        is_answer = torch.zeros_like(is_token)
        for row, aliases in enumerate(probes):
            for alias, probe in enumerate(aliases):
                n_tokens = len(probe.ids)
                ids[row, alias, :n_tokens] = torch.tensor(probe.ids)
                is_token[row, alias, :n_tokens] = True
                is_answer[row, alias, :n_tokens] = torch.tensor(probe.is_answer)
        return cls(ids, is_token, is_answer)

    @property
    def n_tokens(self) -> Integer[Tensor, " B"]:
        """Tokens of a rollout's probes after one boundary."""
        return self.is_token.sum((1, 2))

    @property
    def labels(self) -> Integer[Tensor, "B A M"]:
        return self.ids.masked_fill(~self.is_answer, IGNORED)

    def mean(self, total: Float[Tensor, "B K A"]) -> Float[Tensor, "B K A"]:
        """Divide summed log-probabilities by the number of answer tokens; a missing alias becomes −inf."""
        n_answer = upload(self.is_answer.sum(-1)[:, None], total.device)
        return (total / n_answer.clamp(min=1)).masked_fill(n_answer == 0, -torch.inf)

    def take(self, rows: Sequence[int]) -> ProbeBatch:
        index = list(rows)
        return ProbeBatch(self.ids[index], self.is_token[index], self.is_answer[index])
