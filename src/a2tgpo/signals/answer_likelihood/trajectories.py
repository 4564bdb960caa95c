"""Join the prompts and completions of one scoring batch, on the CPU, with what is read of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.signals.answer_likelihood.token_budget import Extent, MicroBatch

if TYPE_CHECKING:
    from jaxtyping import Bool, Integer

IGNORED = -100
"""The label of a column whose log-probability is not read, as in Hugging Face models."""

ALIGNMENT = 64
"""Padding is cut in multiples of so many columns, the keys an attention kernel takes at a time: its blocks then
begin where they would in the whole row, which keeps the order of its sums."""


@dataclass(frozen=True)
class Trajectories:
    """Hold left-padded prompts joined to right-padded completions, S = P + L columns.

    `position_ids` is the number of attended tokens before each column, so that left padding moves nothing; the
    column's own index where padding counts. Past the first `ends[b]` columns of a row nobody reads anything.

    Two rollouts, prompts `5 6` and `7`, completions `8 9 3` and `4 2` of which the policy wrote `8 9` and `4 2`:

        input_ids       [[5, 6, 8, 9, 3], [0, 7, 4, 2, 0]]
        attention_mask  [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
        labels          [[-100, -100, 8, 9, -100], [-100, -100, 4, 2, -100]]
        position_ids    [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2]]
        ends            [5, 4]
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
        """Join the parts, from any device; `count_padding` lets positions count left padding."""
        prompt_ids, prompt_mask, completion_ids, completion_mask, model_mask = (
            part.cpu() for part in (prompt_ids, prompt_mask, completion_ids, completion_mask, model_mask)
        )
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
        """Give the columns of each row, its padding cut in multiples of `ALIGNMENT`, and its `extra` tokens."""
        n_columns = self.attention_mask.shape[1]
        first = self.attention_mask.int().argmax(1) // ALIGNMENT * ALIGNMENT
        unread = (n_columns - self.ends) // ALIGNMENT * ALIGNMENT
        return [Extent(*row) for row in torch.stack([first, n_columns - unread, extra], dim=1).tolist()]

    def take(self, batch: MicroBatch) -> Trajectories:
        """Cut a micro-batch out."""
        rows = list(batch.rows)
        return Trajectories(
            self.input_ids[rows, batch.columns],
            self.attention_mask[rows, batch.columns],
            self.labels[rows, batch.columns],
            self.position_ids[rows, batch.columns],
            self.ends[rows] - batch.columns.start,
        )
